"""What surrounds the scan of Mamba-2: step sizes from their raw values, projectors, the gate."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def step_sizes(
    dt: Tensor,
    bias: Tensor | None = None,
    softplus: bool = False,
    limit: tuple[float, float] = (0.0, math.inf),
    function: Callable[[Tensor], Tensor] = F.softplus,
) -> Tensor:
    """clamp(softplus(dt + bias)) of dt (..., H) and bias (H,), in the dtype of dt; `function` is the softplus."""
    if bias is not None:
        dt = dt + bias
    if softplus:
        dt = function(dt)
    return dt if limit == (0.0, math.inf) else dt.clamp(*limit)


def projected(rows: Tensor, projector: Tensor | None) -> Tensor:
    """(..., G, N) with (G, r, N) -> (..., G, r): the inputs or outputs of r states in place of N."""
    if projector is None:
        return rows
    return torch.einsum("grn,...gn->...gr", projector, rows)


def gated(y: Tensor, z: Tensor | None) -> Tensor:
    """y silu(z)."""
    return y if z is None else y * F.silu(z)
