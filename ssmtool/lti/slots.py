"""Real poles two to a slot: layouts that store complex modes give every real pole a slot of its own, half of it unused.

Two real poles become one conjugate pair close to them. That is an approximation, and a better start for a refinement
than a slot that cannot leave the real axis: the pair can.
"""

from __future__ import annotations

import numpy as np

from ssmtool.lti.residues import refit_residues
from ssmtool.lti.systems import DiagonalSystem, System

_REAL = 1e-9  # angles closer than this to 0 or pi are real poles
_APART = 0.05  # least angle of a new pair, in radians: a fit cannot leave a double pole to first order


def least_slots(
    original: System, reduced: DiagonalSystem, orders: np.ndarray, horizon: int | None, device: str
) -> DiagonalSystem:
    """`reduced` in ceil(order / 2) slots per system, the output weights refitted on the original's impulse response.

    Real poles on the same side of 0 are paired, neighbours first; one without a partner turns a little away from the
    axis, and becomes a pair on its own. Where still too many slots are left, those with the least energy go.

    Args:
        original: S systems.  reduced: S systems with complex slots.  orders: (S,) states of each.
        horizon: steps the weights are fitted over; None is all.
    """
    pieces = [_paired(reduced, s, -(-int(order) // 2)) for s, order in enumerate(orders)]
    width = max(1, *(len(a) for a, _, _ in pieces))
    a = np.full((reduced.systems, width), -1.0 + 0j)
    B = np.zeros((reduced.systems, width, reduced.inputs), dtype=np.complex128)
    C = np.zeros((reduced.systems, reduced.outputs, width), dtype=np.complex128)
    for s, (poles, rows, columns) in enumerate(pieces):
        a[s, : len(poles)], B[s, : len(poles)], C[s, :, : len(poles)] = poles, rows, columns
    return refit_residues(original, DiagonalSystem(a, B, C, reduced.D), horizon, device)


def _paired(system: DiagonalSystem, s: int, slots: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Poles, rows of B and columns of C of one system, in at most `slots` slots."""
    used = (system.B[s] != 0).any(axis=1) & (system.C[s] != 0).any(axis=0)
    a, B, C = system.a[s, used], system.B[s, used], system.C[s][:, used]
    angle = np.abs(np.angle(np.exp(1j * a.imag)))
    real = np.minimum(angle, np.pi - angle) <= _REAL
    if len(a) <= slots and not real.any():
        return a, B, C
    keep = [(a[i], B[i], C[:, i]) for i in np.flatnonzero(~real)]
    for negative in (False, True):
        group = [i for i in np.flatnonzero(real) if (angle[i] > 1) == negative]
        group.sort(key=lambda i: a[i].real)
        for first in range(0, len(group), 2):
            pair = group[first : first + 2]
            decay = np.mean([a[i].real for i in pair])
            gap = abs(a[pair[0]].real - a[pair[-1]].real) / 2
            turn = max(gap, _APART)
            pole = decay + 1j * (np.pi - turn if negative else turn)
            rows = B[pair[0]].real + (1j * B[pair[1]].real if len(pair) == 2 else 0)
            columns = C[:, pair[0]].real - (1j * C[:, pair[1]].real if len(pair) == 2 else 0)
            keep.append((pole, rows, columns))
    energy = [np.linalg.norm(b) * np.linalg.norm(c) / np.sqrt(-np.expm1(2 * p.real)) for p, b, c in keep]
    best = sorted(np.argsort(energy)[::-1][:slots])
    poles, rows, columns = (np.array([keep[i][part] for i in best]) for part in range(3))
    return poles, rows.reshape(len(best), system.inputs), columns.reshape(len(best), system.outputs).T
