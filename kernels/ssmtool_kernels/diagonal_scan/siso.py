"""Diagonal systems of one input and one output in C, fused: inputs in, outputs out, no state written."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssmtool_kernels import native


def _reals(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor.resolve_conj()).contiguous()


@torch.library.custom_op("ssmtool::diagonal_scan_siso", mutates_args=())
def siso_scan(
    lam: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    u: Tensor,
    x0: Tensor,
    resets: Tensor | None,
    offsets: Tensor,
) -> tuple[Tensor, Tensor]:
    """lam, B, C (S, n) complex, D (S,), u (b, S, L), x0 (k, S, n), resets (b, L), offsets (k + 1,) -> y, last."""
    if u.numel() == 0 or len(offsets) == 1:
        return torch.zeros_like(u), x0.clone()
    reals = [_reals(z) for z in (lam, B, C)]
    y, last = torch.empty(u.shape, dtype=u.dtype), torch.empty((*x0.shape, 2), dtype=u.dtype)
    shape = (len(offsets) - 1, *u.shape[1:], lam.shape[1], native.threads())
    run = native.function("diagonal_scan", "forward", u.dtype)
    run(*reals, D.contiguous(), u.contiguous(), _reals(x0), resets, offsets.cpu(), y, last, *shape)
    return y, torch.view_as_complex(last)


@siso_scan.register_fake
def _(
    lam: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    u: Tensor,
    x0: Tensor,
    resets: Tensor | None,
    offsets: Tensor,
) -> tuple[Tensor, Tensor]:
    return u.new_empty(u.shape), x0.new_empty(x0.shape)


@torch.library.custom_op("ssmtool::diagonal_scan_siso_backward", mutates_args=())
def _siso_backward(
    lam: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    u: Tensor,
    x0: Tensor,
    resets: Tensor | None,
    offsets: Tensor,
    dy: Tensor,
    dlast: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    if u.numel() == 0 or len(offsets) == 1:
        zeros = [torch.zeros(z.shape, dtype=z.dtype, device=z.device) for z in (lam, B, C, D, u)]
        return zeros[0], zeros[1], zeros[2], zeros[3], zeros[4], dlast.clone()
    parts = [*(_reals(z) for z in (lam, B, C)), D.contiguous(), u.contiguous(), _reals(x0)]
    lost = [dy.contiguous(), _reals(dlast)]
    count, (systems, n) = len(offsets) - 1, lam.shape
    dlam, dB, dC = (torch.zeros((count, systems, n, 2), dtype=u.dtype) for _ in range(3))
    dD, dx0 = torch.zeros((count, systems), dtype=u.dtype), torch.zeros((*x0.shape, 2), dtype=u.dtype)
    du = torch.empty(u.shape, dtype=u.dtype)
    run = native.function("diagonal_scan", "backward", u.dtype)
    run(
        *(*parts, resets, offsets.cpu(), *lost, dlam, dB, dC, dD, du, dx0),
        *(count, systems, u.shape[2], n, native.threads()),
    )
    dlam, dB, dC, dD = (z.sum(0) for z in (dlam, dB, dC, dD))
    return *(torch.view_as_complex(z) for z in (dlam, dB, dC)), dD, du, torch.view_as_complex(dx0)  # type: ignore[return-value]


@_siso_backward.register_fake
def _(
    lam: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    u: Tensor,
    x0: Tensor,
    resets: Tensor | None,
    offsets: Tensor,
    dy: Tensor,
    dlast: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    empty = [z.new_empty(z.shape) for z in (lam, B, C, D, u, x0)]
    return empty[0], empty[1], empty[2], empty[3], empty[4], empty[5]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, dy: Tensor, dlast: Tensor) -> tuple[Any, ...]:
    return *_siso_backward(*ctx.saved_tensors, dy, dlast), None, None


siso_scan.register_autograd(_differentiate, setup_context=_setup)
