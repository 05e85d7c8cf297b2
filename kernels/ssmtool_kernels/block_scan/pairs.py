"""The scan that constant diagonals, real or complex, and constant 2 x 2 blocks have in common.

x[t] = M x[t-1] + v[t] in reals, (M x)[i] = on[i] x[i] + off[i] x[i ^ 1]. A complex eigenvalue is the block
[[re, -im], [im, re]] on the real and imaginary part of its mode; without `off` M is diagonal.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssmtool_kernels import native


def raw_forward(
    on: Tensor, off: Tensor | None, v: Tensor, x0: Tensor, resets: Tensor | None, offsets: Tensor, backend: str
) -> tuple[Tensor, Tensor]:
    """Outside autograd. Contiguous: on, off (groups, w), v (total, w), x0 (k, w), resets (total,), offsets (k + 1,).

    Sequence s takes row s % groups of on and off.
    """
    if v.numel() == 0 or len(offsets) == 1:
        return torch.zeros_like(v), x0.clone()
    if backend == "triton":
        from ssmtool_kernels.block_scan import triton

        return triton.forward(on, off, v, x0, resets=resets, offsets=offsets)
    x, last = torch.empty_like(v), torch.empty_like(x0)
    shape = (*x0.shape, on.shape[0], native.threads())
    native.function("block_scan", "forward", v.dtype)(on, off, v, x0, resets, offsets.cpu(), x, last, *shape)
    return x, last


def raw_backward(
    on: Tensor,
    off: Tensor | None,
    x: Tensor,
    x0: Tensor,
    resets: Tensor | None,
    offsets: Tensor,
    dx: Tensor,
    dlast: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """What on, off, v and x0 lose; the first two summed over sequences in their order."""
    count, width = x0.shape
    if x.numel() == 0 or len(offsets) == 1:
        zeros = torch.zeros_like(on)
        return zeros, None if off is None else zeros.clone(), torch.zeros_like(x), dlast.clone()
    if backend == "triton":
        from ssmtool_kernels.block_scan import triton

        don, doff, dv, dx0 = triton.backward(on, off, x, x0, resets=resets, offsets=offsets, dx=dx, dlast=dlast)
    else:
        dv, dx0, don = torch.empty_like(x), torch.empty_like(x0), torch.empty_like(x0)
        doff = None if off is None else torch.empty_like(x0)
        run = native.function("block_scan", "backward", x.dtype)
        shape = (count, width, on.shape[0], native.threads())
        run(on, off, x, x0, resets, offsets.cpu(), dx, dlast, don, doff, dv, dx0, *shape)
    don, doff = (None if z is None else z.view(-1, on.shape[0], width).sum(0) for z in (don, doff))
    assert don is not None
    return don, doff, dv, dx0


@torch.library.custom_op("ssmtool::pair_scan", mutates_args=())
def pair_scan(
    on: Tensor, off: Tensor | None, v: Tensor, x0: Tensor, resets: Tensor | None, offsets: Tensor, backend: str
) -> tuple[Tensor, Tensor]:
    """See `raw_forward`; differentiable once in on, off, v, x0."""
    parts = [None if z is None else z.contiguous() for z in (on, off, v, x0)]
    x, last = raw_forward(*parts, resets, offsets, backend)  # type: ignore[arg-type]
    return x, last


@pair_scan.register_fake
def _(
    on: Tensor, off: Tensor | None, v: Tensor, x0: Tensor, resets: Tensor | None, offsets: Tensor, backend: str
) -> tuple[Tensor, Tensor]:
    return v.new_empty(v.shape), x0.new_empty(x0.shape)


@torch.library.custom_op("ssmtool::pair_scan_backward", mutates_args=())
def _pair_scan_backward(
    on: Tensor,
    off: Tensor | None,
    x: Tensor,
    x0: Tensor,
    resets: Tensor | None,
    offsets: Tensor,
    dx: Tensor,
    dlast: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    parts = [None if z is None else z.contiguous() for z in (on, off, x, x0)]
    don, doff, dv, dx0 = raw_backward(*parts, resets, offsets, dx.contiguous(), dlast.contiguous(), backend)  # type: ignore[arg-type]
    return don, don.new_empty(0) if doff is None else doff, dv, dx0


@_pair_scan_backward.register_fake
def _(
    on: Tensor,
    off: Tensor | None,
    x: Tensor,
    x0: Tensor,
    resets: Tensor | None,
    offsets: Tensor,
    dx: Tensor,
    dlast: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    doff = on.new_empty(0) if off is None else off.new_empty(off.shape)
    return on.new_empty(on.shape), doff, x.new_empty(x.shape), x0.new_empty(x0.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    on, off, _, x0, resets, bounds, ctx.backend = inputs
    ctx.save_for_backward(on, off, output[0], x0, resets, bounds)


def _differentiate(ctx: Any, dx: Tensor, dlast: Tensor) -> tuple[Any, ...]:
    on, off, x, x0, resets, bounds = ctx.saved_tensors
    don, doff, dv, dx0 = _pair_scan_backward(on, off, x, x0, resets, bounds, dx, dlast, ctx.backend)
    return don, None if off is None else doff, dv, dx0, None, None, None


pair_scan.register_autograd(_differentiate, setup_context=_setup)
