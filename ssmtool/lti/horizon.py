"""Factors of Gramians over a finite number of steps, by doubling.

P_T = sum_{k < T} A^k B B^T (A^T)^k has the factor [B, A B, …, A^{T-1} B], and L_{2t} = [L_t, A^t L_t] compressed to as
many columns as there are states by orthogonal transformations: log2 T steps, nothing is subtracted, and every state
keeps its digits relative to its own size (QR is backward stable column by column). The powers of a diagonal A are
exponentials of multiples of its logarithm.

Sources: docs/reductions-weighted.md; Smith, SIAM J. Appl. Math. 16 (1968), for the doubling; Gawronski & Juang, Int. J.
Systems Science 21 (1990), for Gramians over finite time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssmtool.lti.realisation import Realisation, settling


def horizon_factor(system: Realisation, horizon: int | None) -> Tensor:
    """L (S, n, k) float64, k <= n, with P_T = L L^T.

    The observability factor is that of `system.dual()`.

    Args:
        system: S systems; stable ones if there is no horizon.
        horizon: T >= 1 steps; None for all of them.
    """
    L = B = system.B
    steps = 1
    for bit in format(settling(system) if horizon is None else horizon, "b")[1:]:
        parts = [L, system.power(steps, L)]
        if bit == "1":
            parts = [B, *(system.power(1, part) for part in parts)]
        steps = 2 * steps + int(bit)
        L = compress(torch.cat(parts, dim=2))
    return compress(L)


def compress(L: Tensor) -> Tensor:
    """A factor of L L^T (S, n, k) with at most n columns, for L (S, n, any)."""
    if L.shape[2] <= L.shape[1]:
        return L
    return torch.linalg.qr(L.mT, mode="r").R.mT
