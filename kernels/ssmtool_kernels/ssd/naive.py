"""The scan of Mamba-2 exactly as it is defined, in any floating dtype: the truth for every faster form."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssmtool_kernels.ssd.options import gated, projected, step_sizes


def ssd_naive(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    h0: Tensor | None = None,
    resets: Tensor | None = None,
    *,
    z: Tensor | None = None,
    project_b: Tensor | None = None,
    project_c: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, math.inf),
) -> tuple[Tensor, Tensor]:
    """h[t] = exp(dt[t] A) h[t-1] + dt[t] x[t] B[t]^T,  y[t] = h[t] C[t] + D x[t],  for every head.

    Args:
        x: (b, L, H, P) inputs.  dt: (b, L, H) step sizes, positive.
        A: (H,), negative.
        B, C: (b, L, G, N); head j uses group j // (H / G).
        D: (H, P) or (H, 1) feedthrough; none by default.
        h0: (b, H, P, N) state before the first step; 0 by default.
        resets: (b, L) bool: the state is 0 again before step t.
        z: (b, L, H, P): y is multiplied by silu(z).
        project_b, project_c: (G, r, N): B and C become (b, L, G, r), and the state (b, H, P, r).
        dt_bias: (H,) is added to dt, before the softplus if dt_softplus; dt is clamped to dt_limit last.

    Returns:
        y (b, L, H, P), and the state (b, H, P, N) after the last step.
    """
    batch, length, heads, width = x.shape
    states = B.shape[3] if project_b is None else project_b.shape[1]
    h = x.new_zeros(batch, heads, width, states) if h0 is None else h0
    outputs = []
    for t in range(length):
        if resets is not None:
            h = torch.where(resets[:, t, None, None, None], torch.zeros_like(h), h)
        y, h = ssd_step_naive(
            *(x[:, t], dt[:, t], A, B[:, t], C[:, t], D, h),
            z=None if z is None else z[:, t],
            project_b=project_b,
            project_c=project_c,
            dt_bias=dt_bias,
            dt_softplus=dt_softplus,
            dt_limit=dt_limit,
        )
        outputs.append(y)
    return (torch.stack(outputs, dim=1) if outputs else torch.zeros_like(x)), h


def ssd_step_naive(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    h: Tensor,
    *,
    z: Tensor | None = None,
    project_b: Tensor | None = None,
    project_c: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, math.inf),
) -> tuple[Tensor, Tensor]:
    """One step of `ssd_naive`: x, z (b, H, P), dt (b, H), B, C (b, G, N), h (b, H, P, N) -> y (b, H, P), h."""
    share = x.shape[1] // B.shape[1]
    delta = step_sizes(dt, dt_bias, dt_softplus, dt_limit)
    rows, columns = (
        projected(part, projector).repeat_interleave(share, dim=1)
        for part, projector in ((B, project_b), (C, project_c))
    )
    decay = torch.exp(delta * A)[..., None, None]
    h = decay * h + (delta[..., None] * x)[..., None] * rows[:, :, None]
    y = (h @ columns[..., None]).squeeze(-1)
    return gated(y if D is None else y + D * x, z), h
