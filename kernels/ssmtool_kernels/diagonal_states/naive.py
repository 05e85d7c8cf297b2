"""The scan with constant diagonal exactly as it is defined."""

from __future__ import annotations

import torch
from torch import Tensor


def diagonal_states_step(lam: Tensor, v: Tensor, x: Tensor) -> Tensor:
    """One step: lam x + v, with lam (n,), v and x (b, n). The same arithmetic as the naive scan."""
    return lam * x + v


def diagonal_states_naive(
    lam: Tensor, v: Tensor, x0: Tensor | None = None, resets: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """x[t] = lam x[t-1] + v[t], from 0 again where resets[t].

    Args:
        lam: (n,).  v: (b, L, n).  x0: (b, n).  resets: (b, L) bool.

    Returns:
        x (b, L, n), and the last state (b, n).
    """
    x = v.new_zeros((v.shape[0], *v.shape[2:])) if x0 is None else x0
    states = []
    for t in range(v.shape[1]):
        if resets is not None:
            x = torch.where(resets[:, t, None], torch.zeros_like(x), x)
        x = diagonal_states_step(lam, v[:, t], x)
        states.append(x)
    return (torch.stack(states, dim=1) if states else torch.zeros_like(v)), x
