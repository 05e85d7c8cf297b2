"""The scan of Mamba-2 exactly as it is defined, in any floating dtype: the truth for every faster form."""

from __future__ import annotations

import torch
from torch import Tensor


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    h0: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """h[t] = exp(dt[t] A) h[t-1] + dt[t] x[t] B[t]^T,  y[t] = h[t] C[t] + D x[t],  for every head.

    Args:
        x: (b, L, H, P) inputs.  dt: (b, L, H) step sizes, positive.
        A: (H,), negative.
        B, C: (b, L, G, N); head j uses group j // (H / G).
        D: (H, P) or (H, 1) feedthrough; none by default.
        h0: (b, H, P, N) state before the first step; 0 by default.

    Returns:
        y (b, L, H, P), and the state (b, H, P, N) after the last step.
    """
    batch, length, heads, width = x.shape
    repeat = heads // B.shape[2]
    h = x.new_zeros(batch, heads, width, B.shape[3]) if h0 is None else h0
    outputs = []
    for t in range(length):
        rows = B[:, t].repeat_interleave(repeat, dim=1)
        decay = torch.exp(dt[:, t] * A)[..., None, None]
        h = decay * h + (dt[:, t, :, None] * x[:, t])[..., None] * rows[:, :, None]
        outputs.append((h @ C[:, t].repeat_interleave(repeat, dim=1)[..., None]).squeeze(-1))
    y = torch.stack(outputs, dim=1) if outputs else torch.zeros_like(x)
    return (y if D is None else y + D * x), h
