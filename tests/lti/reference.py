"""Hankel singular values in many digits: the closed real system in mpmath, straight from the definitions.

The stored float64 numbers are taken as exact. In coordinates (Re x, Im x) of the stored slots the Gramian of a pair of
slots has a closed form (docs/numerics.md); a slot with an exactly real pole, B and C is one state.
"""

from __future__ import annotations

import mpmath
import numpy as np

from ssmtool.lti.systems import DiagonalSystem


def hankel_singular_values(system: DiagonalSystem, digits: int, s: int = 0) -> np.ndarray:
    """Hankel singular values of system s, descending float64; the system must be minimal.

    P = L L^T and Q = R R^T by Cholesky, sigma the singular values of R^T L. `digits` must exceed the decimal logarithm
    of the Gramians' condition by the digits wanted.
    """
    with mpmath.workdps(digits):
        poles, real = _poles(system, s)
        rows = [[_complex(x) for x in row] for row in system.B[s]]
        columns = [[_complex(x) for x in column] for column in system.C[s].T]
        L = mpmath.cholesky(_gramian(poles, rows, real))
        R = mpmath.cholesky(_gramian(poles, columns, real))
        mirror = mpmath.diag([1] * len(poles) + [-1] * (L.rows - len(poles)))
        return _descending(mpmath.svd_r((mirror * R).T * L, compute_uv=False))


def siso_hankel_singular_values(system: DiagonalSystem, digits: int, s: int = 0) -> np.ndarray:
    """The same for one input and one output, by the faster symmetric eigenproblem of L^T J L with b = c = sqrt(b c)."""
    with mpmath.workdps(digits):
        poles, _ = _poles(system, s)
        real = [bool(mpmath.im(pole) == 0) for pole in poles]
        residues = [_complex(b) * _complex(c) for b, c in zip(system.B[s, :, 0], system.C[s, 0], strict=True)]
        residues = [mpmath.mpc(w.real) if r else w for w, r in zip(residues, real, strict=True)]
        roots = [[mpmath.sqrt(abs(w.real)) if r else mpmath.sqrt(w)] for w, r in zip(residues, real, strict=True)]
        signs = [-1 if r and w.real < 0 else 1 for w, r in zip(residues, real, strict=True)]
        L = mpmath.cholesky(_gramian(poles, roots, real))
        J = mpmath.diag(signs + [-1] * (L.rows - len(poles)))
        return _descending([abs(x) for x in mpmath.eigsy(L.T * J * L, eigvals_only=True)])


def _poles(system: DiagonalSystem, s: int) -> tuple[list, list[bool]]:
    # The float64 number pi stands for half a turn: a negative real pole.
    half_turn = system.a[s].imag == np.pi
    poles = [-mpmath.exp(a.real) if h else mpmath.exp(_complex(a)) for a, h in zip(system.a[s], half_turn, strict=True)]
    real_weights = (np.abs(system.B[s].imag).max(1) == 0) & (np.abs(system.C[s].imag).max(0) == 0)
    return poles, ((half_turn | (system.a[s].imag == 0)) & real_weights).tolist()


def _gramian(poles: list, rows: list, real: list[bool]):
    """P with P = A P A^T + B B^T for A = [[Re, -Im], [Im, Re]], B = [Re; Im]; real slots without their second row."""
    n = len(poles)
    P = mpmath.matrix(2 * n, 2 * n)
    for i in range(n):
        for j in range(n):
            dot = sum(x * y.conjugate() for x, y in zip(rows[i], rows[j], strict=True))
            plain = sum(x * y for x, y in zip(rows[i], rows[j], strict=True))
            p1, p2 = dot / (1 - poles[i] * poles[j].conjugate()), plain / (1 - poles[i] * poles[j])
            P[i, j], P[i, n + j] = (p1 + p2).real / 2, (p2 - p1).imag / 2
            P[n + i, j], P[n + i, n + j] = (p1 + p2).imag / 2, (p1 - p2).real / 2
    keep = list(range(n)) + [n + i for i in range(n) if not real[i]]
    small = mpmath.matrix(len(keep), len(keep))
    for i, row in enumerate(keep):
        for j, column in enumerate(keep):
            small[i, j] = P[row, column]
    return small


def _complex(x: complex):
    return mpmath.mpc(float(np.real(x)), float(np.imag(x)))


def _descending(values) -> np.ndarray:
    return np.array(sorted((float(x) for x in values), reverse=True))
