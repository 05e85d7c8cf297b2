"""The diagonal scan of single-input single-output systems exactly as it is defined."""

from __future__ import annotations

import torch
from torch import Tensor


def s4d_naive(a: Tensor, B: Tensor, C: Tensor, D: Tensor, u: Tensor, x0: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """x[k] = exp(a) x[k-1] + B u[k],  y[k] = Re sum(C x[k]) + D u[k].

    Args:
        a, B, C: (H, n) complex.  D: (H,) real.  u: (b, H, L) real.  x0: (b, H, n) complex.

    Returns:
        y (b, H, L), and the last state (b, H, n).
    """
    lam = torch.exp(a)
    x = lam.new_zeros((u.shape[0], *lam.shape)) if x0 is None else x0
    outputs = []
    for k in range(u.shape[2]):
        x = lam * x + B * u[..., k, None]
        outputs.append((C * x).sum(-1).real + D * u[..., k])
    return (torch.stack(outputs, dim=-1) if outputs else torch.zeros_like(u)), x
