"""The pair scan on a GPU: one program per sequence and block of channels, a tile of ROWS x STEPS time steps at a time.

A tile's rows are consecutive runs of STEPS steps. Each row first sums the run before it up in registers, from nothing;
a scan over the few rows, with the power of the blocks that a run takes, gives the state before each run; then each row
steps through its own run. The second reading of a run comes from the first-level cache, so that every number crosses
the memory bus once, and the eigenvalues are read once in all: their powers depend on the distance only.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmtool_kernels.backends import interpreting
from ssmtool_kernels.specimen import Specimen

ROWS = 8 if interpreting() else 32  # the interpreter is to see more than one tile
DOUBLINGS = 2 if interpreting() else 3
STEPS = 1 << DOUBLINGS
WIDTH = 16  # reals of a block of channels


@triton.jit
def _join(a1, b1, c1, d1, p1, q1, a2, b2, c2, d2, p2, q2):
    """Blocks [[a, b], [c, d]] and states (p, q): the first, then the second."""
    return (
        a2 * a1 + b2 * c1,
        a2 * b1 + b2 * d1,
        c2 * a1 + d2 * c1,
        c2 * b1 + d2 * d1,
        a2 * p1 + b2 * q1 + p2,
        c2 * p1 + d2 * q1 + q2,
    )


@triton.jit
def _pairs(base, rows, columns, width, valid, R: tl.constexpr, W: tl.constexpr):
    """Reals (R, W) of a (total, width) array as even and odd columns."""
    tile = tl.load(base + rows[:, None].to(tl.int64) * width + columns[None, :], mask=valid, other=0.0)
    return tl.split(tl.reshape(tile, (R, W // 2, 2)))


@triton.jit
def _blocks(on, off, row, columns, width, inside, W: tl.constexpr, CROSS: tl.constexpr):
    """a, b, c, d of [[a, b], [c, d]], each (1, W / 2)."""
    a, d = tl.split(tl.reshape(tl.load(on + row * width + columns, mask=inside, other=0.0), (1, W // 2, 2)))
    if CROSS:
        b, c = tl.split(tl.reshape(tl.load(off + row * width + columns, mask=inside, other=0.0), (1, W // 2, 2)))
    else:
        b, c = tl.zeros_like(a), tl.zeros_like(a)
    return a, b, c, d


@triton.jit
def _starts(a, b, c, d, p, q, p0, q0, alive, order, DOUBLINGS: tl.constexpr):
    """States before each run: p, q are what the run before adds, row 0 starts from p0, q0 instead."""
    ra, rb, rc, rd = a, b, c, d
    for _ in tl.static_range(DOUBLINGS):
        ra, rb, rc, rd = ra * ra + rb * rc, (ra + rd) * rb, (ra + rd) * rc, rc * rb + rd * rd
    goes = alive[:, None] & (order > 0)[:, None]
    ra, rb, rc, rd = (
        tl.where(goes, ra, 0.0),
        tl.where(goes, rb, 0.0),
        tl.where(goes, rc, 0.0),
        tl.where(goes, rd, 0.0),
    )
    initial = (order == 0)[:, None]
    p, q = tl.where(initial, p0, p), tl.where(initial, q0, q)
    ra, rb, rc, rd, p, q = tl.associative_scan((ra, rb, rc, rd, p, q), 0, _join)
    return p, q


@triton.jit
def _forward(
    on,
    off,
    v,
    x0,
    resets,
    offsets,
    x,
    last,
    width,
    groups,
    R: tl.constexpr,
    Q: tl.constexpr,
    DOUBLINGS: tl.constexpr,
    W: tl.constexpr,
    CROSS: tl.constexpr,
    RESETS: tl.constexpr,
):
    s, block = tl.program_id(0), tl.program_id(1)
    start, stop = tl.load(offsets + s), tl.load(offsets + s + 1)
    columns = block * W + tl.arange(0, W)
    inside = columns < width
    a, b, c, d = _blocks(on, off, s % groups, columns, width, inside, W, CROSS)
    p0, q0 = tl.split(tl.reshape(tl.load(x0 + s * width + columns, mask=inside, other=0.0), (1, W // 2, 2)))
    order = tl.arange(0, R)
    for first in range(start, stop, R * Q):
        runs = first + order * Q
        p, q = tl.zeros((R, W // 2), x.dtype.element_ty), tl.zeros((R, W // 2), x.dtype.element_ty)
        alive = order >= 0
        for k in tl.static_range(Q):
            rows = runs - Q + k
            there = (rows >= first) & (rows < stop)
            if RESETS:
                kept = tl.load(resets + rows, mask=there, other=0) == 0
                p, q = tl.where(kept[:, None], p, 0.0), tl.where(kept[:, None], q, 0.0)
                alive = alive & kept
            vp, vq = _pairs(v, rows, columns, width, there[:, None] & inside[None, :], R, W)
            p, q = a * p + (b * q + vp), d * q + (c * p + vq)
        p, q = _starts(a, b, c, d, p, q, p0, q0, alive, order, DOUBLINGS)
        for k in tl.static_range(Q):
            rows = runs + k
            there = rows < stop
            if RESETS:
                kept = tl.load(resets + rows, mask=there, other=0) == 0
                p, q = tl.where(kept[:, None], p, 0.0), tl.where(kept[:, None], q, 0.0)
            valid = there[:, None] & inside[None, :]
            vp, vq = _pairs(v, rows, columns, width, valid, R, W)
            # Behind the end the state stays what it was, so that the last row holds the last state.
            p, q = (
                tl.where(there[:, None], a * p + (b * q + vp), p),
                tl.where(there[:, None], d * q + (c * p + vq), q),
            )
            tl.store(
                x + rows[:, None].to(tl.int64) * width + columns[None, :],
                tl.reshape(tl.join(p, q), (R, W)),
                mask=valid,
            )
        final = (order == tl.minimum((stop - first - 1) // Q, R - 1))[:, None]
        p0 = tl.sum(tl.where(final, p, 0.0), 0)[None, :]
        q0 = tl.sum(tl.where(final, q, 0.0), 0)[None, :]
    tl.store(last + s * width + columns, tl.reshape(tl.join(p0, q0), (W,)), mask=inside)


@triton.jit
def _backward(
    on,
    off,
    x,
    x0,
    resets,
    offsets,
    dx,
    dlast,
    don,
    doff,
    dv,
    dx0,
    width,
    groups,
    R: tl.constexpr,
    Q: tl.constexpr,
    DOUBLINGS: tl.constexpr,
    W: tl.constexpr,
    CROSS: tl.constexpr,
    RESETS: tl.constexpr,
):
    """The same from the end: p, q are what a step hands to the one before, M transposed times all it lost."""
    s, block = tl.program_id(0), tl.program_id(1)
    start, stop = tl.load(offsets + s), tl.load(offsets + s + 1)
    columns = block * W + tl.arange(0, W)
    inside = columns < width
    a, c, b, d = _blocks(on, off, s % groups, columns, width, inside, W, CROSS)
    p0, q0 = tl.split(tl.reshape(tl.load(dlast + s * width + columns, mask=inside, other=0.0), (1, W // 2, 2)))
    initial = tl.load(x0 + s * width + columns, mask=inside, other=0.0)
    xp0, xq0 = tl.split(tl.reshape(initial, (1, W // 2, 2)))
    order = tl.arange(0, R)
    zero = tl.zeros((R, W // 2), dv.dtype.element_ty)
    to_a, to_b, to_c, to_d = zero, zero, zero, zero
    for back in range(0, stop - start, R * Q):
        latest = stop - 1 - back
        runs = latest - order * Q
        p, q = zero, zero
        alive = order >= 0
        for k in tl.static_range(Q):
            rows = runs + Q - k
            there = (rows <= latest) & (rows >= start)
            gp, gq = _pairs(dx, rows, columns, width, there[:, None] & inside[None, :], R, W)
            gp, gq = gp + p, gq + q
            p, q = a * gp + b * gq, c * gp + d * gq
            if RESETS:
                kept = tl.load(resets + rows, mask=there, other=0) == 0
                p, q = tl.where(kept[:, None], p, 0.0), tl.where(kept[:, None], q, 0.0)
                alive = alive & kept
        p, q = _starts(a, b, c, d, p, q, p0, q0, alive, order, DOUBLINGS)
        for k in tl.static_range(Q):
            rows = runs - k
            there = rows >= start
            valid = there[:, None] & inside[None, :]
            gp, gq = _pairs(dx, rows, columns, width, valid, R, W)
            gp, gq = gp + p, gq + q
            tl.store(
                dv + rows[:, None].to(tl.int64) * width + columns[None, :],
                tl.reshape(tl.join(gp, gq), (R, W)),
                mask=valid,
            )
            xp, xq = _pairs(x, rows - 1, columns, width, valid & (rows > start)[:, None], R, W)
            at_start = (rows == start)[:, None]
            xp, xq = tl.where(at_start, xp0, xp), tl.where(at_start, xq0, xq)
            handed, crossed = a * gp + b * gq, c * gp + d * gq
            taken = there
            if RESETS:
                kept = tl.load(resets + rows, mask=there, other=0) == 0
                handed, crossed = tl.where(kept[:, None], handed, 0.0), tl.where(kept[:, None], crossed, 0.0)
                taken = taken & kept
            gp, gq = tl.where(taken[:, None], gp, 0.0), tl.where(taken[:, None], gq, 0.0)
            to_a += gp * xp
            to_d += gq * xq
            if CROSS:
                to_b += gp * xq
                to_c += gq * xp
            p, q = tl.where(there[:, None], handed, p), tl.where(there[:, None], crossed, q)
        final = (order == tl.minimum((latest - start) // Q, R - 1))[:, None]
        p0 = tl.sum(tl.where(final, p, 0.0), 0)[None, :]
        q0 = tl.sum(tl.where(final, q, 0.0), 0)[None, :]
    at = s * width + columns
    tl.store(dx0 + at, tl.reshape(tl.join(p0, q0), (W,)), mask=inside)
    tl.store(don + at, tl.reshape(tl.join(tl.sum(to_a, 0), tl.sum(to_d, 0)), (W,)), mask=inside)
    if CROSS:
        tl.store(doff + at, tl.reshape(tl.join(tl.sum(to_b, 0), tl.sum(to_c, 0)), (W,)), mask=inside)


def _sizes() -> dict[str, int]:
    return {"R": ROWS, "Q": STEPS, "DOUBLINGS": DOUBLINGS, "W": WIDTH}


def _constants(off: Tensor | None, resets: Tensor | None) -> dict[str, int | bool]:
    return {**_sizes(), "CROSS": off is not None, "RESETS": resets is not None}


def forward(
    on: Tensor, off: Tensor | None, v: Tensor, x0: Tensor, resets: Tensor | None, offsets: Tensor
) -> tuple[Tensor, Tensor]:
    """Flat contiguous reals, see `pairs.raw_forward`."""
    x, last = torch.empty_like(v), torch.empty_like(x0)
    count, width = x0.shape
    _forward[(count, triton.cdiv(width, WIDTH))](
        *(on, on if off is None else off, v, x0, on if resets is None else resets.view(torch.uint8), offsets, x, last),
        *(width, on.shape[0]),
        **_constants(off, resets),
        num_warps=4,
    )
    return x, last


def backward(
    on: Tensor,
    off: Tensor | None,
    x: Tensor,
    x0: Tensor,
    resets: Tensor | None,
    offsets: Tensor,
    dx: Tensor,
    dlast: Tensor,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """What on and off lose by each sequence, and what v and x0 lose."""
    count, width = x0.shape
    dv, dx0, don = torch.empty_like(x), torch.empty_like(x0), torch.empty_like(x0)
    doff = None if off is None else torch.empty_like(x0)
    _backward[(count, triton.cdiv(width, WIDTH))](
        *(on, on if off is None else off, x, x0, on if resets is None else resets.view(torch.uint8), offsets),
        *(dx, dlast, don, don if doff is None else doff, dv, dx0, width, on.shape[0]),
        **_constants(off, resets),
        num_warps=4,
    )
    return don, doff, dv, dx0


def specimens() -> Iterator[Specimen]:
    """Blocks, with and without resets."""
    reals = {
        "forward": ("on", "off", "v", "x0", "x", "last"),
        "backward": ("on", "off", "x", "x0", "dx", "dlast", "don", "doff", "dv", "dx0"),
    }
    for resets in (False, True):
        for kernel, names in ((_forward, reals["forward"]), (_backward, reals["backward"])):
            yield Specimen(
                kernel=kernel,
                types={
                    **dict.fromkeys(names, "*fp32"),
                    **dict.fromkeys(("width", "groups"), "i32"),
                    "resets": "*u8",
                    "offsets": "*i64",
                },
                constants={**_sizes(), "CROSS": True, "RESETS": resets},
                label=f"fp32{' resets' if resets else ''}",
                aligned=("width",),
            )
