"""The scan with 2 x 2 blocks exactly as it is defined."""

from __future__ import annotations

import torch
from torch import Tensor


def block_step(A: Tensor, v: Tensor, x: Tensor) -> Tensor:
    """One step: A x + v, with A (n, 2, 2), v and x (b, n, 2). The same arithmetic as the naive scan."""
    return (A * x[..., None, :]).sum(-1) + v


def block_scan_naive(
    A: Tensor, v: Tensor, x0: Tensor | None = None, resets: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """x[t] = A x[t-1] + v[t], from 0 again where resets[t].

    Args:
        A: (n, 2, 2).  v: (b, L, n, 2).  x0: (b, n, 2).  resets: (b, L) bool.

    Returns:
        x (b, L, n, 2), and the last state (b, n, 2).
    """
    x = v.new_zeros((v.shape[0], *v.shape[2:])) if x0 is None else x0
    states = []
    for t in range(v.shape[1]):
        if resets is not None:
            x = torch.where(resets[:, t, None, None], torch.zeros_like(x), x)
        x = block_step(A, v[:, t], x)
        states.append(x)
    return (torch.stack(states, dim=1) if states else torch.zeros_like(v)), x
