"""Residues of a reduced system refitted on the impulse response of the original: poles and B stay, C is chosen.

With e_k = C A^k B - Re(C_r A_r^k B_r), the energy sum |e_k|^2 is |C L - C_r L_r|_F^2 where [L; L_r] is a factor of the
joint Gramian of both systems, driven by the same input: the rows of the factor are coordinates of the impulse responses
of the states in one orthonormal basis. So the best C_r is a least-squares solution with the rows of L_r, without
normal equations, whose condition would be squared.

Source: docs/reductions-weighted.md; Gragg & Lindquist, Lin. Alg. Appl. 50 (1983), for the projection.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from ssmtool.lti.factors import batches, parallel, resolve_device
from ssmtool.lti.horizon import horizon_factor
from ssmtool.lti.realisation import Matrices, Realisation, of_dense, of_slots
from ssmtool.lti.systems import DiagonalSystem, System

_INSTANT = -1e4  # logarithm of a pole that is 0
_DEPENDENT = 1e-13  # directions of the kept responses below this share of the largest are left alone


def refit_residues(
    original: System, reduced: DiagonalSystem, horizon: int | None = None, device: str = "cpu"
) -> DiagonalSystem:
    """`reduced` with the C that minimises the energy of the error's impulse response.

    min over C_r of sum_{k < T} |h_k - h_{r,k}|_F^2, D included at k = 0. Never larger than before, up to rounding: what
    is solved for is the change of C, of least norm where the kept responses are linearly dependent. Slots that are
    not reached (B = 0) keep their C, real slots with real C stay real.

    Args:
        original: S systems, stable ones if there is no horizon.
        reduced: S systems with the same inputs and outputs, likewise.
        horizon: T >= 1, steps that count; None for the H2 norm.
        device: "auto", "cpu" or a torch device.
    """
    target = resolve_device(device)
    size = original.order + 2 * reduced.slots
    pieces = batches(original.systems, size, target)

    def task(piece: slice) -> np.ndarray:
        joint, states = _joint(original, reduced, piece, target)
        L = horizon_factor(joint, horizon).cpu().numpy()
        C = joint.C.cpu().numpy()
        return np.stack([_change(C[s] @ L[s], L[s][states]) for s in range(len(L))])

    change = np.concatenate(parallel(task, pieces, target))
    n = reduced.slots
    return replace(reduced, C=reduced.C + change[:, :, :n] - 1j * change[:, :, n:])


def _joint(
    original: System, reduced: DiagonalSystem, piece: slice, device: torch.device
) -> tuple[Realisation, np.ndarray]:
    """The error system, original - reduced, and which of its states are those of the reduced one (Re first, then Im).

    A difference in D is the response of a state that forgets at once: pole 0, B = I.
    """
    n, m = reduced.slots, reduced.inputs
    instant: NDArray[np.complexfloating] = np.repeat(np.eye(m, dtype=np.complex128)[None], reduced.systems, axis=0)
    step: NDArray[np.complexfloating] = (original.D - reduced.D).astype(np.complex128)
    small = DiagonalSystem(
        np.concatenate([reduced.a, np.full((reduced.systems, m), _INSTANT + 0j)], axis=1),
        np.concatenate([reduced.B, instant], axis=1),
        np.concatenate([-reduced.C, step], axis=2),
        reduced.D,
    )
    if isinstance(original, DiagonalSystem):
        a: NDArray[np.complexfloating] = np.concatenate([original.a, small.a], axis=1)
        B: NDArray[np.complexfloating] = np.concatenate([original.B, small.B], axis=1)
        C: NDArray[np.complexfloating] = np.concatenate([original.C, small.C], axis=2)
        states = original.slots + np.arange(n)
        joint = of_slots(DiagonalSystem(a, B, C, original.D), piece, device)
        return joint, np.concatenate([states, original.slots + small.slots + states])
    large, other = of_dense(original, piece, device), of_slots(small, piece, device)
    eye = torch.eye(2 * small.slots, dtype=torch.float64, device=device).expand(len(other.B), -1, -1)
    A = torch.stack([torch.block_diag(x, y) for x, y in zip(large.A, other.power(1, eye), strict=True)])
    states = original.order + np.arange(n)
    joint = Matrices(A, torch.cat([large.B, other.B], dim=1), torch.cat([large.C, other.C], dim=2))
    return joint, np.concatenate([states, small.slots + states])


def _change(error: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(p, 2n) least-squares coefficients of the error (p, K) in the rows (2n, K); 0 for rows that are 0."""
    size = np.linalg.norm(rows, axis=1)
    scale = np.divide(1.0, size, out=np.zeros_like(size), where=size > 0)
    solution = np.linalg.lstsq((scale[:, None] * rows).T, error.T, rcond=_DEPENDENT)[0].T
    return solution * scale
