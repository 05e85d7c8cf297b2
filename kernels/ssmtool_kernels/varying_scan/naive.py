"""The time-varying scan exactly as it is defined."""

from __future__ import annotations

import torch
from torch import Tensor


def varying_scan_naive(
    a: Tensor, v: Tensor, h0: Tensor | None = None, resets: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """h[t] = a[t] h[t-1] + v[t], from 0 again where resets[t].

    Args:
        a, v: (b, L, n).  h0: (b, n).  resets: (b, L) bool.

    Returns:
        h (b, L, n), and the last state (b, n).
    """
    h = v.new_zeros(v.shape[0], v.shape[2]) if h0 is None else h0
    states = []
    for t in range(v.shape[1]):
        if resets is not None:
            h = torch.where(resets[:, t, None], torch.zeros_like(h), h)
        h = a[:, t] * h + v[:, t]
        states.append(h)
    return (torch.stack(states, dim=1) if states else torch.zeros_like(v)), h
