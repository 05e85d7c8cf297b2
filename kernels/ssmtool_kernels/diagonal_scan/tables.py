"""Diagonal systems of one input and one output on a GPU: the kernel sees tables, PyTorch differentiates them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssmtool_kernels.diagonal_scan.chunk_tables import ChunkTables, chunk_tables

STEPS = 16  # of a chunk


def tables_scan(
    lam: Tensor, B: Tensor, C: Tensor, D: Tensor, u: Tensor, x0: Tensor, resets: Tensor | None, offsets: Tensor
) -> tuple[Tensor, Tensor]:
    """The same as `siso.siso_scan`."""
    n = lam.shape[1]
    width = max(16, 1 << max(n - 1, 0).bit_length())
    tables = chunk_tables(lam, B, C, D, STEPS, width)
    parts = torch.nn.functional.pad(torch.stack([x0.real, x0.imag], dim=2), (0, width - n))
    y, last = _scan(*tables, u.contiguous(), parts, resets, offsets)
    return y, torch.complex(last[:, :, 0, :n], last[:, :, 1, :n])


@torch.library.custom_op("ssmtool::diagonal_scan_tables", mutates_args=())
def _scan(
    power: Tensor,
    inward: Tensor,
    outward: Tensor,
    kernel: Tensor,
    u: Tensor,
    x0: Tensor,
    resets: Tensor | None,
    offsets: Tensor,
) -> tuple[Tensor, Tensor]:
    """Tables see `ChunkTables`, u (b, S, L), x0 (k, S, 2, N), resets (b, L), offsets (k + 1,) -> y, last."""
    if u.numel() == 0 or len(offsets) == 1:
        return torch.zeros_like(u), x0.clone()
    from ssmtool_kernels.diagonal_scan import triton

    tables = ChunkTables(*(z.contiguous() for z in (power, inward, outward, kernel)))
    return triton.forward(tables, u.contiguous(), x0.contiguous(), resets, offsets)


@_scan.register_fake
def _(
    power: Tensor,
    inward: Tensor,
    outward: Tensor,
    kernel: Tensor,
    u: Tensor,
    x0: Tensor,
    resets: Tensor | None,
    offsets: Tensor,
) -> tuple[Tensor, Tensor]:
    return u.new_empty(u.shape), x0.new_empty(x0.shape)


@torch.library.custom_op("ssmtool::diagonal_scan_tables_backward", mutates_args=())
def _scan_backward(
    power: Tensor,
    inward: Tensor,
    outward: Tensor,
    kernel: Tensor,
    u: Tensor,
    x0: Tensor,
    resets: Tensor | None,
    offsets: Tensor,
    dy: Tensor,
    dlast: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    tables = ChunkTables(*(z.contiguous() for z in (power, inward, outward, kernel)))
    if u.numel() == 0 or len(offsets) == 1:
        lost = ChunkTables(*(torch.zeros_like(z) for z in tables))
        return lost.power, lost.inward, lost.outward, lost.kernel, torch.zeros_like(u), dlast.clone()
    from ssmtool_kernels.diagonal_scan import triton

    lost, du, dx0 = triton.backward(
        tables, u.contiguous(), x0.contiguous(), resets, offsets, dy.contiguous(), dlast.contiguous()
    )
    return lost.power, lost.inward, lost.outward, lost.kernel, du, dx0


@_scan_backward.register_fake
def _(
    power: Tensor,
    inward: Tensor,
    outward: Tensor,
    kernel: Tensor,
    u: Tensor,
    x0: Tensor,
    resets: Tensor | None,
    offsets: Tensor,
    dy: Tensor,
    dlast: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    empty = [z.new_empty(z.shape) for z in (power, inward, outward, kernel, u, x0)]
    return empty[0], empty[1], empty[2], empty[3], empty[4], empty[5]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, dy: Tensor, dlast: Tensor) -> tuple[Any, ...]:
    return *_scan_backward(*ctx.saved_tensors, dy, dlast), None, None


_scan.register_autograd(_differentiate, setup_context=_setup)
