"""Diagonal systems step by step, exactly as they are defined."""

from __future__ import annotations

import torch
from torch import Tensor


def diagonal_step(lam: Tensor, B: Tensor, C: Tensor, D: Tensor, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """One step: x lam + B u, and Re(C x) + D u of the new x. Bit for bit the arithmetic of the naive scan.

    Args:
        lam: (S, n).  B: (S, n, m).  C: (S, p, n).  D: (S, p, m) real.
        u: (b, S, m) real.  x: (b, S, n).

    Returns:
        y (b, S, p) real, and the new state (b, S, n).
    """
    x = lam * x + (B * u[..., None, :]).sum(-1)
    return (C * x[..., None, :]).sum(-1).real + (D * u[..., None, :]).sum(-1), x


def diagonal_scan_naive(
    lam: Tensor, B: Tensor, C: Tensor, D: Tensor, u: Tensor, x0: Tensor | None = None, resets: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """x[t] = lam x[t-1] + B u[t], from 0 again where resets[t];  y[t] = Re(C x[t]) + D u[t].

    Args:
        lam: (S, n).  B: (S, n, m).  C: (S, p, n).  D: (S, p, m) real.
        u: (b, S, L, m) real.  x0: (b, S, n).  resets: (b, L) bool.

    Returns:
        y (b, S, L, p) real, and the last state (b, S, n).
    """
    x = lam.new_zeros((u.shape[0], *lam.shape)) if x0 is None else x0
    outputs = []
    for t in range(u.shape[2]):
        if resets is not None:
            x = torch.where(resets[:, t, None, None], torch.zeros_like(x), x)
        y, x = diagonal_step(lam, B, C, D, u[:, :, t], x)
        outputs.append(y)
    return (torch.stack(outputs, dim=2) if outputs else u.new_zeros((*u.shape[:3], C.shape[1]))), x
