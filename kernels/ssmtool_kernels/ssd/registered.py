"""The scan of Mamba-2 and its projectors as operators of PyTorch, with their adjoints.

Here B and C are projected, step sizes final, and time is flat: x (total, H, P), dt (total, H), A (H,), B, C
(total, G, N), D (H, P) or None, h0 (k, H, P, N), z (total, H, P) or None, resets (total,) or None, offsets (k + 1,).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssmtool_kernels import native

PARTS = 16  # partial sums of dB and dC over the heads of a group: fixed, so that threads change nothing


def scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    h0: Tensor,
    z: Tensor | None,
    resets: Tensor | None,
    offsets: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """(b, L, ...) along time, as `ssd` has them -> y (b, L, H, P), last (k, H, P, N)."""
    given = (x, dt, A, B, C, D, h0, z)
    keep = z is not None and torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in given)
    y, last, _ = _scan(
        *(x.flatten(0, 1), dt.flatten(0, 1), A, B.flatten(0, 1), C.flatten(0, 1), D, h0),
        None if z is None else z.flatten(0, 1),
        None if resets is None else resets.flatten(),
        *(offsets, keep, backend),
    )
    return y.view(x.shape), last


def project(rows: Tensor, projector: Tensor) -> Tensor:
    """(b, L, G, N) with (G, r, N) -> (b, L, G, r) by the C source: bit for bit what a single step computes."""
    return _project(rows.flatten(0, 1), projector).view(*rows.shape[:-1], projector.shape[1])


@torch.library.custom_op("ssmtool::ssd", mutates_args=())
def _scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    h0: Tensor,
    z: Tensor | None,
    resets: Tensor | None,
    offsets: Tensor,
    keep: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, last, and y before the gate if `keep`, for the adjoint."""
    parts: list[Any] = [_contiguous(t) for t in (x, dt, A, B, C, D, h0, z)]
    if x.numel() == 0 or h0.numel() == 0:
        y = torch.zeros_like(parts[0]) if D is None else (D * x).to(x.dtype)
        gate = y if z is None else y * torch.nn.functional.silu(z)
        return gate.clone(), h0.clone(), y.clone() if keep else y.new_empty(0)
    if backend == "triton":
        from ssmtool_kernels.ssd import triton

        return triton.forward(*parts, resets=resets, offsets=offsets, keep=keep)
    y, last = torch.empty_like(parts[0]), torch.empty_like(parts[6])
    raw = torch.empty_like(y) if keep else y.new_empty(0)
    sizes = (len(h0), *x.shape[1:], *B.shape[1:], native.threads())
    run = native.function("ssd", "forward", x.dtype)
    run(*parts, _contiguous(resets), offsets.cpu(), y, last, raw if keep else None, *sizes)
    return y, last, raw


@_scan.register_fake
def _(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    h0: Tensor,
    z: Tensor | None,
    resets: Tensor | None,
    offsets: Tensor,
    keep: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), h0.new_empty(h0.shape), x.new_empty(x.shape if keep else (0,))


@torch.library.custom_op("ssmtool::ssd_backward", mutates_args=())
def _scan_backward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    h0: Tensor,
    resets: Tensor | None,
    offsets: Tensor,
    dy: Tensor,
    dlast: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """dx, ddt, dA, dB, dC, dD (of any content if D is None), dh0."""
    parts: list[Any] = [_contiguous(t) for t in (x, dt, A, B, C, D, h0)]
    lost = [dy.contiguous(), dlast.contiguous()]
    if x.numel() == 0 or h0.numel() == 0:
        dD = A.new_zeros(x.shape[1:]) if D is None else (dy * x).sum(0).to(D.dtype)
        dx = torch.zeros_like(x) if D is None else (D * dy).to(x.dtype)
        ddt, dA, dB, dC = (torch.zeros_like(t) for t in (dt, A, B, C))
        return dx, ddt, dA, dB, dC, dD, dlast.clone()
    if backend == "triton":
        from ssmtool_kernels.ssd import triton_backward

        return triton_backward.backward(*parts, resets=resets, offsets=offsets, dy=lost[0], dlast=lost[1])
    count, (heads, width), (groups, states) = len(h0), x.shape[1:], B.shape[1:]
    share = min(PARTS, heads // groups)
    dx, dh0 = torch.empty_like(parts[0]), torch.empty_like(parts[6])
    ddt, dA, dD = torch.zeros_like(parts[1]), A.new_zeros(count, heads), A.new_zeros(count, heads, width)
    dB, dC = (B.new_zeros(share, len(x), groups, states) for _ in range(2))
    sizes = (count, heads, width, groups, states, share, native.threads())
    run = native.function("ssd", "backward", x.dtype)
    run(*parts, _contiguous(resets), offsets.cpu(), *lost, dx, ddt, dA, dB, dC, dD, dh0, *sizes)
    return dx, ddt, dA.sum(0), dB.sum(0), dC.sum(0), dD.sum(0), dh0


@_scan_backward.register_fake
def _(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    h0: Tensor,
    resets: Tensor | None,
    offsets: Tensor,
    dy: Tensor,
    dlast: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    dx, ddt, dA, dB, dC, dh0 = (t.new_empty(t.shape) for t in (x, dt, A, B, C, h0))
    return dx, ddt, dA, dB, dC, A.new_empty(x.shape[1:]), dh0


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, keep, backend = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.keep, ctx.backend = keep, backend


def _differentiate(ctx: Any, dy: Tensor, dlast: Tensor, _: Tensor) -> tuple[Any, ...]:
    x, dt, A, B, C, D, h0, z, resets, offsets, raw = ctx.saved_tensors
    dz = None
    if z is not None:
        gate = torch.sigmoid(z.to(A.dtype))
        wide = dy.to(A.dtype)
        dz = (wide * raw * gate * (1 + z * (1 - gate))).to(z.dtype)
        dy = (wide * z * gate).to(x.dtype)
    dx, ddt, dA, dB, dC, dD, dh0 = _scan_backward(x, dt, A, B, C, D, h0, resets, offsets, dy, dlast, ctx.backend)
    return dx, ddt, dA, dB, dC, None if D is None else dD, dh0, dz, None, None, None, None


_scan.register_autograd(_differentiate, setup_context=_setup)


@torch.library.custom_op("ssmtool::ssd_project", mutates_args=())
def _project(rows: Tensor, projector: Tensor) -> Tensor:
    """(total, G, N) with (G, r, N) -> (total, G, r)."""
    out = rows.new_empty(*rows.shape[:2], projector.shape[1])
    sizes = (*rows.shape, projector.shape[1], native.threads())
    native.function("ssd", "project", rows.dtype)(rows.contiguous(), projector.mT.contiguous(), out, *sizes)
    return out


@_project.register_fake
def _(rows: Tensor, projector: Tensor) -> Tensor:
    return rows.new_empty(*rows.shape[:2], projector.shape[1])


def _project_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _project_differentiate(ctx: Any, lost: Tensor) -> tuple[Tensor, Tensor]:
    rows, projector = ctx.saved_tensors
    return torch.einsum("grn,tgr->tgn", projector, lost), torch.einsum("tgn,tgr->grn", rows, lost)


_project.register_autograd(_project_differentiate, setup_context=_project_setup)


@torch.library.custom_op("ssmtool::ssd_softplus", mutates_args=())
def softplus(dt: Tensor) -> Tensor:
    """log(1 + exp(dt)) by the C source: every element the same, wherever it lies."""
    out = torch.empty_like(dt, memory_format=torch.contiguous_format)
    native.function("ssd", "softplus", dt.dtype)(dt.contiguous(), out, dt.numel(), native.threads())
    return out


@softplus.register_fake
def _(dt: Tensor) -> Tensor:
    return dt.new_empty(dt.shape)


def _softplus_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _softplus_differentiate(ctx: Any, lost: Tensor) -> Tensor:
    return lost * torch.sigmoid(ctx.saved_tensors[0])


softplus.register_autograd(_softplus_differentiate, setup_context=_softplus_setup)


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()
