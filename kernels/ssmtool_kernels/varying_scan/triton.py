"""The time-varying scan on a GPU: one program per sequence and block of channels, a tile of time steps at a time.

Within a tile the steps are scanned in parallel; the state is carried from tile to tile in registers, so that every
number is read and written once. Complex numbers are interleaved pairs.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmtool_kernels.specimen import Specimen

STEPS = 64  # of a tile


@triton.jit
def _join_real(a1, h1, a2, h2):
    return a2 * a1, a2 * h1 + h2


@triton.jit
def _join_complex(ar1, ai1, hr1, hi1, ar2, ai2, hr2, hi2):
    return (
        ar2 * ar1 - ai2 * ai1,
        ar2 * ai1 + ai2 * ar1,
        ar2 * hr1 - ai2 * hi1 + hr2,
        ar2 * hi1 + ai2 * hr1 + hi2,
    )


@triton.jit
def _tile(base, rows, columns, width, valid):
    """Reals (T, W) of a (total, width) array."""
    return tl.load(base + rows[:, None].to(tl.int64) * width + columns[None, :], mask=valid, other=0.0)


@triton.jit
def _forward(
    a,
    v,
    h0,
    resets,
    offsets,
    h,
    last,
    width,
    T: tl.constexpr,
    W: tl.constexpr,
    PAIRS: tl.constexpr,
    RESETS: tl.constexpr,
):
    """width, W: reals per step and per block, two per complex channel."""
    s, block = tl.program_id(0), tl.program_id(1)
    start, stop = tl.load(offsets + s), tl.load(offsets + s + 1)
    columns = block * W + tl.arange(0, W)
    inside = columns < width
    state = tl.load(h0 + s * width + columns, mask=inside, other=0.0)
    steps = tl.arange(0, T)
    for first in range(start, stop, T):
        rows = first + steps
        valid = (rows < stop)[:, None] & inside[None, :]
        decay = _tile(a, rows, columns, width, valid)
        drive = _tile(v, rows, columns, width, valid)
        if RESETS:
            kept = tl.load(resets + rows, mask=rows < stop, other=0) == 0
            decay = tl.where(kept[:, None], decay, 0.0)
        if PAIRS:
            ar, ai = tl.split(tl.reshape(decay, (T, W // 2, 2)))
            vr, vi = tl.split(tl.reshape(drive, (T, W // 2, 2)))
            sr, si = tl.split(tl.reshape(state, (W // 2, 2)))
            ar, ai, hr, hi = tl.associative_scan((ar, ai, vr, vi), 0, _join_complex)
            hr, hi = hr + ar * sr[None, :] - ai * si[None, :], hi + ar * si[None, :] + ai * sr[None, :]
            states = tl.reshape(tl.join(hr, hi), (T, W))
        else:
            decay, states = tl.associative_scan((decay, drive), 0, _join_real)
            states += decay * state[None, :]
        tl.store(h + rows[:, None].to(tl.int64) * width + columns[None, :], states, mask=valid)
        final = tl.minimum(stop - first, T) - 1
        state = tl.sum(tl.where(steps[:, None] == final, states, 0.0), 0)
    tl.store(last + s * width + columns, state, mask=inside)


@triton.jit
def _backward(
    a,
    h,
    h0,
    resets,
    offsets,
    dh,
    dlast,
    da,
    dv,
    dh0,
    width,
    T: tl.constexpr,
    W: tl.constexpr,
    PAIRS: tl.constexpr,
    RESETS: tl.constexpr,
):
    """The same from the end: what step t hands to t - 1 is conj(a[t]) times all that is lost by h[t]."""
    s, block = tl.program_id(0), tl.program_id(1)
    start, stop = tl.load(offsets + s), tl.load(offsets + s + 1)
    columns = block * W + tl.arange(0, W)
    inside = columns < width
    carried = tl.load(dlast + s * width + columns, mask=inside, other=0.0)
    initial = tl.load(h0 + s * width + columns, mask=inside, other=0.0)
    steps = tl.arange(0, T)
    for back in range(0, stop - start, T):
        rows = stop - 1 - back - steps  # the tile reads backwards in time
        valid = (rows >= start)[:, None] & inside[None, :]
        lost = _tile(dh, rows, columns, width, valid)
        # The decay that brought the gradient of step t + 1 to step t; 1 at the last step, which gets dlast.
        behind = valid & (rows < stop - 1)[:, None]
        decay = tl.where((rows == stop - 1)[:, None], 1.0, _tile(a, rows + 1, columns, width, behind))
        if PAIRS:
            odd = (columns % 2 == 1)[None, :]
            decay = tl.where((rows == stop - 1)[:, None] & odd, 0.0, decay)
        before = _tile(h, rows - 1, columns, width, valid & (rows > start)[:, None])
        before = tl.where((rows == start)[:, None], initial[None, :], before)
        if RESETS:
            fresh = tl.load(resets + rows, mask=rows >= start, other=0) != 0
            before = tl.where(fresh[:, None], 0.0, before)
            after = tl.load(resets + rows + 1, mask=(rows >= start) & (rows < stop - 1), other=0) != 0
            decay = tl.where(after[:, None], 0.0, decay)
        if PAIRS:
            ar, ai = tl.split(tl.reshape(decay, (T, W // 2, 2)))
            gr, gi = tl.split(tl.reshape(lost, (T, W // 2, 2)))
            cr, ci = tl.split(tl.reshape(carried, (W // 2, 2)))
            br, bi = tl.split(tl.reshape(before, (T, W // 2, 2)))
            ar, ai, gr, gi = tl.associative_scan((ar, -ai, gr, gi), 0, _join_complex)
            gr, gi = gr + ar * cr[None, :] - ai * ci[None, :], gi + ar * ci[None, :] + ai * cr[None, :]
            g = tl.reshape(tl.join(gr, gi), (T, W))
            to_a = tl.reshape(tl.join(gr * br + gi * bi, gi * br - gr * bi), (T, W))
        else:
            decay, g = tl.associative_scan((decay, lost), 0, _join_real)
            g += decay * carried[None, :]
            to_a = g * before
        at = rows[:, None].to(tl.int64) * width + columns[None, :]
        tl.store(dv + at, g, mask=valid)
        tl.store(da + at, to_a, mask=valid)
        final = tl.minimum(stop - start - back, T) - 1
        carried = tl.sum(tl.where(steps[:, None] == final, g, 0.0), 0)
    # carried is the gradient at the first step; one decay more brings it to h0.
    if stop > start:
        decay = tl.load(a + start * width + columns, mask=inside, other=0.0)
        if PAIRS:
            ar, ai = tl.split(tl.reshape(decay, (W // 2, 2)))
            cr, ci = tl.split(tl.reshape(carried, (W // 2, 2)))
            carried = tl.reshape(tl.join(ar * cr + ai * ci, ar * ci - ai * cr), (W,))
        else:
            carried = decay * carried
        if RESETS:
            carried = tl.where(tl.load(resets + start) != 0, 0.0, carried)
    tl.store(dh0 + s * width + columns, carried, mask=inside)


def _launch(width: int, count: int, pairs: bool) -> tuple[tuple[int, int], int]:
    """Grid and reals per block: enough programs for the machine, rows long enough for wide loads."""
    block = min(32, max(2 if pairs else 1, triton.next_power_of_2(width)))
    return (count, triton.cdiv(width, block)), block


def forward(a: Tensor, v: Tensor, h0: Tensor, resets: Tensor | None, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Flat contiguous real tensors, see `native.c`; pairs are told by a last axis of two."""
    pairs = a.ndim == 3
    width, count = a[0].numel() if a.shape[0] else h0[0].numel(), len(offsets) - 1
    h, last = torch.empty_like(v), torch.empty_like(h0)
    grid, block = _launch(width, count, pairs)
    _forward[grid](
        *(a, v, h0, a if resets is None else resets.view(torch.uint8), offsets, h, last, width),
        T=STEPS,
        W=block,
        PAIRS=pairs,
        RESETS=resets is not None,
        num_warps=4,
    )
    return h, last


def backward(
    a: Tensor, h: Tensor, h0: Tensor, resets: Tensor | None, offsets: Tensor, dh: Tensor, dlast: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """da, dv, dh0."""
    pairs = a.ndim == 3
    width, count = h0[0].numel(), len(offsets) - 1
    da, dv, dh0 = torch.empty_like(a), torch.empty_like(a), torch.empty_like(h0)
    grid, block = _launch(width, count, pairs)
    _backward[grid](
        *(a, h, h0, a if resets is None else resets.view(torch.uint8), offsets, dh, dlast, da, dv, dh0, width),
        T=STEPS,
        W=block,
        PAIRS=pairs,
        RESETS=resets is not None,
        num_warps=4,
    )
    return da, dv, dh0


def specimens() -> Iterator[Specimen]:
    """Real and complex, float32, with and without resets."""
    reals = {"forward": ("a", "v", "h0", "h", "last"), "backward": ("a", "h", "h0", "dh", "dlast", "da", "dv", "dh0")}
    for pairs in (False, True):
        for kernel, names in ((_forward, reals["forward"]), (_backward, reals["backward"])):
            yield Specimen(
                kernel=kernel,
                types={**dict.fromkeys(names, "*fp32"), "resets": "*u8", "offsets": "*i64", "width": "i32"},
                constants={"T": STEPS, "W": 32, "PAIRS": pairs, "RESETS": True},
                label=f"fp32 {'complex' if pairs else 'real'}",
                aligned=("width",),
            )
