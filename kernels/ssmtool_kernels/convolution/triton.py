"""The short convolution on a GPU: one program per sequence, tile of time steps and block of channels.

A row of inputs is read once from memory and its neighbours' reads of it come from cache. The taps are summed in the
order of the C source with fused multiply-adds, whatever the tile: decoding steps and prefill give the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmtool_kernels.specimen import Specimen

STEPS, BLOCK = 32, 64  # of a tile


@triton.jit
def _rows(x, tail, sequence, time, columns, there, length, channels, K: tl.constexpr):
    """Inputs (T, C) at these times: of the tail before 0, and 0 where `there` is false."""
    at = (sequence * length + time)[:, None] * channels + columns[None, :]
    row = tl.load(x + at, mask=there & (time >= 0)[:, None], other=0.0)
    if K > 1:
        at = (sequence * (K - 1) + time + K - 1)[:, None] * channels + columns[None, :]
        row = tl.where((time < 0)[:, None], tl.load(tail + at, mask=there & (time < 0)[:, None], other=0.0), row)
    return row


@triton.jit
def _forward(x, w, bias, tail, y, length, channels, K: tl.constexpr, T: tl.constexpr, C: tl.constexpr):
    """x, y (b, L, c) in any precision; w (K, c), bias (c,) in that of the sums; tail (b, K - 1, c)."""
    tile, block, sequence = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    columns = block * C + tl.arange(0, C)
    inside = columns < channels
    time = tile * T + tl.arange(0, T)
    there = (time < length)[:, None] & inside[None, :]
    start = tl.load(bias + columns, mask=inside, other=0.0)
    total = tl.broadcast_to(start[None, :], (T, C))
    for k in tl.static_range(K):
        weight = tl.load(w + k * channels + columns, mask=inside, other=0.0)
        row = _rows(x, tail, sequence, time - (K - 1 - k), columns, there, length, channels, K).to(total.dtype)
        total = tl.fma(tl.broadcast_to(weight[None, :], (T, C)), row, total)
    at = (sequence * length + time)[:, None] * channels + columns[None, :]
    tl.store(y + at, total.to(y.dtype.element_ty), mask=there)


@triton.jit
def _backward(x, w, tail, dy, dx, dtail, sums, length, channels, K: tl.constexpr, T: tl.constexpr, C: tl.constexpr):
    """dx, dtail, and each tile's part of what is lost by the bias and the taps: sums (tiles of all, 1 + K, c)."""
    tile, block, sequence = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    columns = block * C + tl.arange(0, C)
    inside = columns < channels
    time = tile * T + tl.arange(0, T) - (K - 1)  # from the first row of the tail
    there = (time < length)[:, None] & inside[None, :]
    at = (sequence * length + time)[:, None] * channels + columns[None, :]
    lost = tl.load(dy + at, mask=there & (time >= 0)[:, None], other=0.0).to(w.dtype.element_ty)
    part = sums + (sequence * tl.num_programs(0) + tile) * (1 + K) * channels + columns
    tl.store(part, tl.sum(lost, 0), mask=inside)
    total = tl.zeros((T, C), dtype=w.dtype.element_ty)
    for k in tl.static_range(K):
        weight = tl.load(w + k * channels + columns, mask=inside, other=0.0)
        later = time + (K - 1 - k)
        at_later = (sequence * length + later)[:, None] * channels + columns[None, :]
        valid = ((later >= 0) & (later < length))[:, None] & inside[None, :]
        by_output = tl.load(dy + at_later, mask=valid, other=0.0).to(total.dtype)
        total = tl.fma(tl.broadcast_to(weight[None, :], (T, C)), by_output, total)
        driven = there & (time >= 0)[:, None]
        row = _rows(x, tail, sequence, time - (K - 1 - k), columns, driven, length, channels, K).to(total.dtype)
        tl.store(part + (1 + k) * channels, tl.sum(lost * row, 0), mask=inside)
    tl.store(dx + at, total.to(dx.dtype.element_ty), mask=there & (time >= 0)[:, None])
    if K > 1:
        at = (sequence * (K - 1) + time + K - 1)[:, None] * channels + columns[None, :]
        tl.store(dtail + at, total.to(dtail.dtype.element_ty), mask=there & (time < 0)[:, None])


def _tile(length: int) -> int:
    """Steps of a tile: one for decoding."""
    return min(STEPS, triton.next_power_of_2(length))


def forward(x: Tensor, w: Tensor, bias: Tensor, tail: Tensor) -> Tensor:
    """y of contiguous x (b, L, c), w (K, c), bias (c,), tail (b, K - 1, c)."""
    batch, length, channels = x.shape
    y, steps = torch.empty_like(x), _tile(length)
    grid = (triton.cdiv(length, steps), triton.cdiv(channels, BLOCK), batch)
    _forward[grid](x, w, bias, tail, y, length, channels, K=w.shape[0], T=steps, C=BLOCK, num_warps=4)
    return y


def backward(x: Tensor, w: Tensor, tail: Tensor, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dx, dw (K, c), dbias, dtail."""
    batch, length, channels = x.shape
    taps = w.shape[0]
    tiles = triton.cdiv(length + taps - 1, STEPS)
    dx, dtail = torch.empty_like(x), torch.empty_like(tail)
    sums = w.new_empty((batch * tiles, 1 + taps, channels))
    grid = (tiles, triton.cdiv(channels, BLOCK), batch)
    _backward[grid](x, w, tail, dy, dx, dtail, sums, length, channels, K=taps, T=STEPS, C=BLOCK, num_warps=4)
    whole = sums.sum(0)
    return dx, whole[1:].clone(), whole[0].clone(), dtail


def specimens() -> Iterator[Specimen]:
    """Four taps, in float32 and bfloat16."""
    for dtype in ("fp32", "bf16"):
        for kernel, names in ((_forward, ("x", "tail", "y")), (_backward, ("x", "tail", "dy", "dx", "dtail"))):
            yield Specimen(
                kernel=kernel,
                types={
                    **dict.fromkeys(names, f"*{dtype}"),
                    **dict.fromkeys(("w", "bias", "sums"), "*fp32"),
                    **dict.fromkeys(("length", "channels"), "i32"),
                },
                constants={"K": 4, "T": STEPS, "C": BLOCK},
                label=f"{dtype} K=4",
                aligned=("length", "channels"),
            )
