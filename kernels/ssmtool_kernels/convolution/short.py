"""The short depth-wise causal convolution of Mamba blocks, over sequences and step by step.

Both are the same sum of products in the same order, so that decoding continues a prefill bit for bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssmtool_kernels import native
from ssmtool_kernels.backends import FLOATS, resolve
from ssmtool_kernels.checks import dimensions, same_kind, shaped


def short_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, tail: Tensor | None = None, *, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """y[t, c] = bias[c] + sum_k weight[c, k] x[t - K + 1 + k, c]; inputs before x are those of `tail`.

    Args:
        x: (b, L, c) float; float16 and bfloat16 are summed in float32 and rounded once.
        weight: (c, K), K >= 1.  bias: (c,), 0 by default.  Both of x's dtype.
        tail: (b, K - 1, c) the inputs before x, as the call before returned them; 0 by default.
        backend: see `ssmtool_kernels.backends`.

    Returns:
        y (b, L, c), and the tail for the next call. Differentiable once in x, weight, bias, tail. On one backend,
        sequences cut in any way, down to single steps, give the same bits.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit.
        BackendError: the backend cannot run here.
    """
    batch, length, channels = dimensions("x", x, "b, L, c")
    taps = dimensions("weight", weight, "c, K")[1]
    shaped("weight", weight, channels, taps, letters="(c, K)")
    if taps < 1 or x.dtype not in FLOATS:
        raise ValueError(f"x is {x.dtype} and weight has {taps} taps: floats and at least one tap are needed")
    shaped("bias", bias, channels, letters="(c,)")
    shaped("tail", tail, batch, taps - 1, channels, letters="(b, K - 1, c)")
    same_kind("x", x, weight=weight, bias=bias, tail=tail)
    old = x.new_zeros((batch, taps - 1, channels)) if tail is None else tail
    chosen = resolve(backend, x)
    work = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
    start = x.new_zeros(channels, dtype=work) if bias is None else bias.to(work)
    if chosen in ("cpu", "triton"):
        if chosen == "cpu":
            y = _convolve(x.to(work), weight.to(work), start, old.to(work), chosen).to(x.dtype)
        else:
            y = _convolve(x, weight.to(work), start, old, chosen)
        kept = min(length, taps - 1)
        return y, torch.cat([old[:, kept:], x[:, length - kept :]], dim=1)
    padded = torch.cat([old, x], dim=1)
    return _shifted_sum(padded.to(work), weight.to(work), start, length).to(x.dtype), padded[:, length:].clone()


def short_convolution_step(
    x: Tensor, weight: Tensor, bias: Tensor | None, tail: Tensor, *, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """One step of `short_convolution`: x (b, c), tail (b, K - 1, c) -> y (b, c) and the next tail."""
    dimensions("x", x, "b, c")
    y, following = short_convolution(x[:, None], weight, bias, tail, backend=backend)
    return y[:, 0], following


def _shifted_sum(padded: Tensor, weight: Tensor, bias: Tensor, length: int) -> Tensor:
    """Products and sums apart: a fused form could round differently from one length to another."""
    y = bias
    for k in range(weight.shape[1]):
        y = y + padded[:, k : k + length] * weight[:, k]
    return y


@torch.library.custom_op("ssmtool::short_convolution", mutates_args=())
def _convolve(x: Tensor, weight: Tensor, bias: Tensor, tail: Tensor, backend: str) -> Tensor:
    x, taps = x.contiguous(), weight.mT.contiguous()
    if x.numel() and backend == "triton":
        from ssmtool_kernels.convolution import triton

        return triton.forward(x, taps, bias.contiguous(), tail.contiguous())
    y = torch.empty_like(x)
    shape = (*x.shape, taps.shape[0], native.threads())
    native.function("convolution", "short_forward", x.dtype)(x, taps, bias.contiguous(), tail.contiguous(), y, *shape)
    return y


@_convolve.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, tail: Tensor, backend: str) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("ssmtool::short_convolution_backward", mutates_args=())
def _convolve_backward(
    x: Tensor, weight: Tensor, tail: Tensor, dy: Tensor, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, taps, dy = x.contiguous(), weight.mT.contiguous(), dy.contiguous()
    if x.numel() and backend == "triton":
        from ssmtool_kernels.convolution import triton

        dx, dtaps, dbias, dtail = triton.backward(x, taps, tail.contiguous(), dy)
        return dx, dtaps.mT.contiguous(), dbias, dtail
    dx, dtaps, dtail = torch.empty_like(x), torch.empty_like(taps), torch.empty_like(tail.contiguous())
    dbias = weight.new_empty(weight.shape[0])
    run = native.function("convolution", "short_backward", x.dtype)
    run(x, taps, tail.contiguous(), dy, dx, dtaps, dbias, dtail, *x.shape, taps.shape[0], native.threads())
    return dx, dtaps.mT.contiguous(), dbias, dtail


@_convolve_backward.register_fake
def _(x: Tensor, weight: Tensor, tail: Tensor, dy: Tensor, backend: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        x.new_empty(x.shape),
        weight.new_empty(weight.shape),
        weight.new_empty(weight.shape[0]),
        tail.new_empty(tail.shape),
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, tail, ctx.backend = inputs
    ctx.save_for_backward(x, weight, tail)


def _differentiate(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    return *_convolve_backward(*ctx.saved_tensors, dy, ctx.backend), None


_convolve.register_autograd(_differentiate, setup_context=_setup)
