"""The dense scan step by step, exactly as it is defined."""

from __future__ import annotations

import torch
from torch import Tensor


def dense_scan(
    A: Tensor, B: Tensor, C: Tensor, D: Tensor, u: Tensor, x0: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """x[k] = A x[k-1] + B u[k],  y[k] = C x[k] + D u[k],  k = 0 … L-1, all real.

    Args:
        A: (S, n, n), B: (S, n, m), C: (S, p, n), D: (S, p, m), u: (S, L, m).
        x0: (S, n) state before the first step; 0 by default.

    Returns:
        y (S, L, p), and the state (S, n) after the last step.
    """
    driven = u @ B.mT
    states = torch.empty_like(driven)
    x = A.new_zeros(A.shape[:2]) if x0 is None else x0
    for k in range(u.shape[1]):
        x = torch.baddbmm(driven[:, k, :, None], A, x[:, :, None])[:, :, 0]
        states[:, k] = x
    return states @ C.mT + u @ D.mT, x
