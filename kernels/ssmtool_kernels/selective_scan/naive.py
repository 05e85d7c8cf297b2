"""The selective scan exactly as it is defined, in any floating dtype: the truth for every faster form."""

from __future__ import annotations

import torch
from torch import Tensor


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    h0: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """h[t] = exp(dt[t] A) h[t-1] + dt[t] x[t] B[t],  y[t] = C[t] . h[t] + D x[t],  for every channel.

    Args:
        x: (b, L, E) inputs.  dt: (b, L, E) step sizes, positive.
        A: (E, N), negative.
        B, C: (b, L, G, N); channel e uses group e // (E / G).
        D: (E,) feedthrough; none by default.
        h0: (b, E, N) state before the first step; 0 by default.

    Returns:
        y (b, L, E), and the state (b, E, N) after the last step.
    """
    batch, length, channels = x.shape
    repeat = channels // B.shape[2]
    h = x.new_zeros(batch, channels, A.shape[1]) if h0 is None else h0
    outputs = []
    for t in range(length):
        rows = B[:, t].repeat_interleave(repeat, dim=1)
        h = torch.exp(dt[:, t, :, None] * A) * h + (dt[:, t] * x[:, t])[..., None] * rows
        outputs.append((h * C[:, t].repeat_interleave(repeat, dim=1)).sum(-1))
    y = torch.stack(outputs, dim=1) if outputs else torch.zeros_like(x)
    return (y if D is None else y + D * x), h
