"""The time-varying scan on every backend, registered with PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssmtool_kernels import native
from ssmtool_kernels.backends import resolve
from ssmtool_kernels.checks import dimensions, same_kind, shaped
from ssmtool_kernels.segments import each_sequence, offsets, resets_of
from ssmtool_kernels.varying_scan.naive import varying_scan_naive


def varying_scan(
    a: Tensor,
    v: Tensor,
    h0: Tensor | None = None,
    *,
    resets: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """h[t] = a[t] h[t-1] + v[t], elementwise.

    Args:
        a, v: (b, L, n), float32, float64 or complex, one dtype. float16 and bfloat16 are computed in float32.
        h0: (b, n) state before the first step; 0 by default. (k, n) for packed sequences.
        resets: (b, L) bool: the state is set to 0 before step t where resets[:, t].
        cu_seqlens: (k + 1,) integers: k sequences packed along time in a batch of 1, as many states in and out.
        backend: see `ssmtool_kernels.backends`.

    Returns:
        h (b, L, n), and the last state (b, n) or (k, n). Differentiable once in a, v, h0.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit.
        BackendError: the backend cannot run here.
    """
    batch, length, n = dimensions("a", a, "b, L, n")
    shaped("v", v, batch, length, n, letters="(b, L, n)")
    same_kind("a", a, v=v, h0=h0)
    bounds = offsets(batch, length, cu_seqlens, a.device)
    count = len(bounds) - 1
    shaped("h0", h0, count, n, letters="(sequences, n)")
    mask = resets_of(resets, batch, length, a.device)
    chosen = resolve(backend, a)
    if chosen in ("naive", "torch"):
        if cu_seqlens is None:
            return varying_scan_naive(a, v, h0, mask)
        return each_sequence(lambda a, v, m, h: varying_scan_naive(a, v, h, m), (a, v, mask), h0, cu_seqlens)
    dtype = a.dtype
    work = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
    state = a.new_zeros((count, n), dtype=work) if h0 is None else h0.to(work)
    h, last = _scan(
        a.to(work).reshape(-1, n),
        v.to(work).reshape(-1, n),
        state,
        None if mask is None else mask.view(-1),
        bounds,
        chosen,
    )
    return h.view(v.shape).to(dtype), last.to(dtype)


def varying_step(a: Tensor, v: Tensor, h: Tensor) -> Tensor:
    """One step, (b, n) each: a h + v. The same arithmetic as the naive scan."""
    return a * h + v


def _reals(tensor: Tensor) -> Tensor:
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).contiguous()


def _like(tensor: Tensor, reals: Tensor) -> Tensor:
    return torch.view_as_complex(reals) if tensor.is_complex() else reals


@torch.library.custom_op("ssmtool::varying_scan", mutates_args=())
def _scan(
    a: Tensor, v: Tensor, h0: Tensor, resets: Tensor | None, offsets: Tensor, backend: str
) -> tuple[Tensor, Tensor]:
    """Flat: a, v (total, n), h0 (k, n), resets (total,), offsets (k + 1,)."""
    parts = [_reals(x) for x in (a, v, h0)]
    if a.numel() == 0 or len(offsets) == 1:
        return torch.zeros_like(v), h0.clone()
    if backend == "triton":
        from ssmtool_kernels.varying_scan import triton

        h, last = triton.forward(*parts, resets=resets, offsets=offsets)
    else:
        h, last = torch.empty_like(parts[1]), torch.empty_like(parts[2])
        shape = (len(offsets) - 1, h0.shape[1] * (2 if a.is_complex() else 1), a.is_complex(), native.threads())
        native.function("varying_scan", "forward", a.dtype)(*parts, resets, offsets.cpu(), h, last, *shape)
    return _like(v, h), _like(h0, last)


@_scan.register_fake
def _(a: Tensor, v: Tensor, h0: Tensor, resets: Tensor | None, offsets: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    return v.new_empty(v.shape), h0.new_empty(h0.shape)


@torch.library.custom_op("ssmtool::varying_scan_backward", mutates_args=())
def _scan_backward(
    a: Tensor, h: Tensor, h0: Tensor, resets: Tensor | None, offsets: Tensor, dh: Tensor, dlast: Tensor, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    parts = [_reals(x) for x in (a, h, h0)]
    lost = [_reals(x) for x in (dh, dlast)]
    if a.numel() == 0 or len(offsets) == 1:
        return torch.zeros_like(a), torch.zeros_like(a), dlast.clone()
    if backend == "triton":
        from ssmtool_kernels.varying_scan import triton

        da, dv, dh0 = triton.backward(*parts, resets=resets, offsets=offsets, dh=lost[0], dlast=lost[1])
    else:
        da, dv, dh0 = torch.empty_like(parts[0]), torch.empty_like(parts[1]), torch.empty_like(parts[2])
        shape = (len(offsets) - 1, h0.shape[1] * (2 if a.is_complex() else 1), a.is_complex(), native.threads())
        run = native.function("varying_scan", "backward", a.dtype)
        run(*parts, resets, offsets.cpu(), *lost, da, dv, dh0, *shape)
    return _like(a, da), _like(a, dv), _like(h0, dh0)


@_scan_backward.register_fake
def _(
    a: Tensor, h: Tensor, h0: Tensor, resets: Tensor | None, offsets: Tensor, dh: Tensor, dlast: Tensor, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    return a.new_empty(a.shape), a.new_empty(a.shape), h0.new_empty(h0.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    a, _, h0, resets, bounds, backend = inputs
    ctx.save_for_backward(a, output[0], h0, resets, bounds)
    ctx.backend = backend


def _differentiate(ctx: Any, dh: Tensor, dlast: Tensor) -> tuple[Any, ...]:
    a, h, h0, resets, bounds = ctx.saved_tensors
    da, dv, dh0 = _scan_backward(a, h, h0, resets, bounds, dh, dlast, ctx.backend)
    return da, dv, dh0, None, None, None


_scan.register_autograd(_differentiate, setup_context=_setup)
