"""The selective scan exactly as it is defined, in any floating dtype: the truth for every faster form."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def selective_scan_naive(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    h0: Tensor | None = None,
    *,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    resets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """h[t] = exp(dt[t] A) h[t-1] + dt[t] x[t] B[t],  y[t] = C[t] . h[t] + D x[t],  for every channel.

    Gu and Dao, Mamba (2023), equation 2 with the discretisation of section 3.2 as its code has it.

    Args:
        x: (b, L, E) inputs.  dt: (b, L, E) step sizes, positive.
        A: (E, N), negative.
        B, C: (b, L, G, N); channel e uses group e // (E / G).
        D: (E,) feedthrough; none by default.
        h0: (b, E, N) state before the first step; 0 by default.
        z: (b, L, E): y is multiplied by silu(z).
        dt_bias: (E,), added to dt.  dt_softplus: the step is softplus(dt + dt_bias).
        resets: (b, L) bool: the state is set to 0 before step t where resets[:, t].

    Returns:
        y (b, L, E), and the state (b, E, N) after the last step.
    """
    h = x.new_zeros(x.shape[0], x.shape[2], A.shape[1]) if h0 is None else h0
    outputs = []
    for t in range(x.shape[1]):
        if resets is not None:
            h = torch.where(resets[:, t, None, None], torch.zeros_like(h), h)
        gate = None if z is None else z[:, t]
        y, h = selective_step_naive(x[:, t], dt[:, t], A, B[:, t], C[:, t], D, h, gate, dt_bias, dt_softplus)
        outputs.append(y)
    return (torch.stack(outputs, dim=1) if outputs else torch.zeros_like(x)), h


def selective_step_naive(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    h: Tensor,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
) -> tuple[Tensor, Tensor]:
    """One step: x, dt, z (b, E); B, C (b, G, N); h (b, E, N) -> y (b, E), h."""
    repeat = x.shape[1] // B.shape[1]
    dt = step_sizes(dt, dt_bias, dt_softplus)
    h = torch.exp(dt[..., None] * A) * h + (dt * x)[..., None] * B.repeat_interleave(repeat, dim=1)
    y = (h * C.repeat_interleave(repeat, dim=1)).sum(-1)
    if D is not None:
        y = y + D * x
    return (y if z is None else y * F.silu(z)), h


def step_sizes(dt: Tensor, bias: Tensor | None, softplus: bool) -> Tensor:
    """dt + bias, through softplus if asked. Beyond 40 softplus(v) is v to the last bit of a float64."""
    dt = dt if bias is None else dt + bias
    return F.softplus(dt, threshold=40) if softplus else dt
