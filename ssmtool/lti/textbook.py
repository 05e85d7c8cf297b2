"""Between current-input form and the textbook's x[k+1] = A x[k] + B u[k], y[k] = C x[k] + D u[k].

The same transfer function has two Hankel matrices: [h_{i+j}], i, j >= 0, that of the triple (A, B, C) in current-input
form, and [h_{i+j+1}], that of the triple (A, B, C A), whose feedthrough D + C B is the whole of h_0. A reduction that
may choose D works on the second, whose Hankel singular values are no larger.

Source: docs/notation.md; Zhou, Doyle & Glover, Robust and Optimal Control (1996), chapter 21.
"""

from __future__ import annotations

from typing import overload

import numpy as np
from numpy.typing import NDArray

from ssmtool.lti.systems import DenseSystem, DiagonalSystem, System

_NEAREST = 1e-6  # modulus of the pole nearest to 0: C / lambda and what D takes back then agree to ten digits


@overload
def textbook(system: DiagonalSystem) -> DiagonalSystem: ...
@overload
def textbook(system: DenseSystem) -> DenseSystem: ...
def textbook(system: System) -> System:
    """A, B, C A, D + C B of every system: matrices of the same transfer function, to be read in textbook form."""
    if isinstance(system, DenseSystem):
        return DenseSystem(system.A, system.B, system.C @ system.A, system.D + system.C @ system.B)
    lam: NDArray[np.complexfloating] = np.exp(system.a)
    C = system.C * (lam.real if system.real else lam)[:, None, :]
    return DiagonalSystem(system.a, system.B, C, system.D + np.matmul(system.C, system.B).real, real=system.real)


def current_input(system: DiagonalSystem) -> tuple[DiagonalSystem, np.ndarray]:
    """The inverse of `textbook`: C / lambda, and D - Re(C / lambda B).

    A pole at 0 is a pure delay, which current-input form does not have. Poles within 1e-6 of it are moved there: that
    changes the response by less than 1e-6 |C_i| |B_i|.

    Args:
        system: poles and residues in textbook form.

    Returns:
        the systems in current-input form; (S,) bound on the H-infinity norm of what moving poles has changed.
    """
    size = np.linalg.norm(system.B, axis=2) * np.linalg.norm(system.C, axis=1)
    near = (system.a.real < np.log(_NEAREST)) & (size > 0)
    a: NDArray[np.complexfloating] = np.where(near, np.log(_NEAREST) + 1j * system.a.imag, system.a)
    lam: NDArray[np.complexfloating] = np.exp(a)
    lam = np.where(np.abs(np.sin(a.imag)) < 1e-15, lam.real, lam)
    C = np.where(size[:, None, :] > 0, system.C / lam[:, None, :], 0.0)
    moved = 2 * _NEAREST * (size * near).sum(axis=1) / (1 - _NEAREST) ** 2
    D = system.D - np.matmul(C, system.B).real
    return DiagonalSystem(a, system.B, C, D, real=system.real), moved


def steady_gain(system: System) -> np.ndarray:
    """(S, p, m) float64, G(1): what a constant input settles to, of systems in current-input form."""
    if isinstance(system, DenseSystem):
        return system.C @ np.linalg.solve(np.eye(system.order) - system.A, system.B) + system.D
    return np.matmul(system.C / -np.expm1(system.a)[:, None, :], system.B).real + system.D
