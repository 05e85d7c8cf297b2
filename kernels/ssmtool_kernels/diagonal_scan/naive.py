"""The diagonal scan step by step, exactly as it is defined."""

from __future__ import annotations

import torch
from torch import Tensor


def diagonal_scan(
    lam: Tensor, B: Tensor, C: Tensor, D: Tensor, u: Tensor, x0: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """x[k] = lam x[k-1] + B u[k],  y[k] = Re(C x[k]) + D u[k],  k = 0 … L-1.

    Args:
        lam: (S, n) complex eigenvalues.
        B: (S, n, m), C: (S, p, n) complex, of lam's dtype.  D: (S, p, m) real.
        u: (S, L, m) real inputs.
        x0: (S, n) complex state before the first step; 0 by default.

    Returns:
        y (S, L, p) real, and the state (S, n) after the last step.
    """
    driven = u.to(lam.dtype) @ B.mT
    states = torch.empty_like(driven)
    x = torch.zeros_like(lam) if x0 is None else x0
    for k in range(u.shape[1]):
        x = torch.addcmul(driven[:, k], lam, x)
        states[:, k] = x
    return (states @ C.mT).real + u @ D.mT, x
