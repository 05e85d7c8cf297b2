"""Diagonal systems of one input and one output on a GPU, in chunks of Q steps; the tables are those of `chunk_tables`.

One program per sequence and system; CHUNKS chunks at a time are the rows of products of small matrices in full
precision, the states before them come from a scan over the rows, and nothing but inputs and outputs crosses the memory
bus. Row r takes what the chunk before it adds to the state, so that the scan gives states before chunks. The adjoint
first repeats the states and keeps one per tile, then goes backwards.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmtool_kernels.diagonal_scan.chunk_tables import ChunkTables
from ssmtool_kernels.specimen import Specimen

Q = 16  # steps of a chunk; products of matrices need 16
CHUNKS = 16


@triton.jit
def _join(ar, ai, p, q, br, bi, r, s):
    return br * ar - bi * ai, br * ai + bi * ar, br * p - bi * q + r, br * q + bi * p + s


@triton.jit
def _product(a, b):
    return tl.dot(a, b, input_precision="ieee", out_dtype=b.dtype)


@triton.jit
def _table(base, system, rows, modes, height, N: tl.constexpr):
    """Rows (T, N) of a table (S, 2, height, N), real and imaginary; rows beyond it, either way, are zero."""
    at = base + (system * 2 * height + rows[:, None]) * N + modes[None, :]
    inside = ((rows >= 0) & (rows < height))[:, None]
    return tl.load(at, mask=inside, other=0.0), tl.load(at + height * N, mask=inside, other=0.0)


@triton.jit
def _chunk_resets(resets, time, valid):
    """Resets up to and with each step of its chunk (rows of `time`), and their number in the chunk (rows, 1)."""
    fresh = tl.load(resets + time, mask=valid, other=0).to(tl.int32)
    return tl.cumsum(fresh, 1), tl.sum(fresh, 1)[:, None]


@triton.jit
def _states(
    u, resets, start, stop, first, order, steps, wr, wi, ar, ai, p0, q0, xr, xi, Q: tl.constexpr, RESETS: tl.constexpr
):
    """States before the chunks of a tile. p0, q0: (1, N), before the chunk before the tile; xr, xi: at the start."""
    time = first + (order[:, None] - 1) * Q + steps[None, :]
    valid = (time >= start) & (time < stop)
    drive = tl.load(u + time, mask=valid, other=0.0)
    alive = (order >= 0)[:, None]
    if RESETS:
        seen, number = _chunk_resets(resets, time, valid)
        drive = tl.where(seen == number, drive, 0.0)
        alive = number == 0
    p, q = _product(drive, wr), _product(drive, wi)
    decay_r, decay_i = tl.where(alive, ar, 0.0), tl.where(alive, ai, 0.0)
    top = (order == 0)[:, None]
    carried_r, carried_i = decay_r * p0 - decay_i * q0, decay_r * q0 + decay_i * p0
    if first == start:
        p, q = tl.where(top, xr, p), tl.where(top, xi, q)
    else:
        p, q = tl.where(top, p + carried_r, p), tl.where(top, q + carried_i, q)
    decay_r, decay_i, p, q = tl.associative_scan((decay_r, decay_i, p, q), 0, _join)
    return p, q


@triton.jit
def _row(tile, order, row):
    """Row `row` of a tile (R, N), as (1, N)."""
    return tl.sum(tl.where((order == row)[:, None], tile, 0.0), 0)[None, :]


@triton.jit
def _rest(resets, stop, number, steps, RESETS: tl.constexpr):
    """Which of the last steps, counted from the end, reach the last state, and whether the state before them does."""
    reach = steps < number
    alive = number >= 0
    if RESETS:
        fresh = tl.load(resets + stop - 1 - steps, mask=reach, other=0).to(tl.int32)
        reach = reach & (tl.cumsum(fresh, 0) - fresh == 0)
        alive = tl.sum(fresh, 0) == 0
    return reach, alive


@triton.jit
def _toeplitz(kernel, system, steps, Q: tl.constexpr, TRANSPOSED: tl.constexpr):
    lag = steps[None, :] - steps[:, None]
    if TRANSPOSED:
        lag = -lag
    return tl.load(kernel + system * Q + lag, mask=lag >= 0, other=0.0)


@triton.jit
def _forward(
    power,
    inward,
    outward,
    kernel,
    u,
    x0,
    resets,
    offsets,
    y,
    last,
    systems,
    length,
    Q: tl.constexpr,
    R: tl.constexpr,
    N: tl.constexpr,
    RESETS: tl.constexpr,
):
    s, system = tl.program_id(0), tl.program_id(1)
    start, stop = tl.load(offsets + s), tl.load(offsets + s + 1)
    shift = (start // length * (systems - 1) + system).to(tl.int64) * length  # from (b, L) to system's row of (b, S, L)
    u += shift
    y += shift
    order, steps, modes = tl.arange(0, R), tl.arange(0, Q), tl.arange(0, N)
    wr, wi = _table(inward, system, Q - 1 - steps, modes, Q, N)
    cr, ci = _table(outward, system, steps, modes, Q, N)
    cr, ci = tl.trans(cr), tl.trans(ci)
    toeplitz = _toeplitz(kernel, system, steps, Q, False)
    ar, ai = _power(power, system, Q, modes, Q, N)
    at = (s * systems + system).to(tl.int64) * 2 * N + modes[None, :]
    xr, xi = tl.load(x0 + at), tl.load(x0 + at + N)
    p0, q0 = xr, xi
    for first in range(start, stop, Q * R):
        p, q = _states(u, resets, start, stop, first, order, steps, wr, wi, ar, ai, p0, q0, xr, xi, Q, RESETS)
        time = first + order[:, None] * Q + steps[None, :]
        valid = time < stop
        drive = tl.load(u + time, mask=valid, other=0.0)
        result = _product(p, cr) - _product(q, ci)
        if RESETS:
            seen, _ = _chunk_resets(resets, time, valid)
            result = tl.where(seen == 0, result, 0.0)
            together = seen[:, :, None] == seen[:, None, :]
            result += tl.sum(tl.where(together, drive[:, :, None] * toeplitz[None, :, :], 0.0), 1)
        else:
            result += _product(drive, toeplitz)
        tl.store(y + time, result, mask=valid)
        final = tl.minimum((stop - first - 1) // Q, R - 1)
        p0, q0 = _row(p, order, final), _row(q, order, final)
    # p0, q0 is the state before the last chunk, which has 1 to Q steps.
    if stop > start:
        number = (stop - start - 1) % Q + 1
        reach, alive = _rest(resets, stop, number, steps, RESETS)
        recent = tl.load(u + stop - 1 - steps, mask=reach, other=0.0)[:, None]
        br, bi = _table(inward, system, steps, modes, Q, N)
        ar, ai = _power(power, system, number, modes, Q, N)
        ar, ai = tl.where(alive, ar, 0.0), tl.where(alive, ai, 0.0)
        p0, q0 = (
            ar * p0 - ai * q0 + tl.sum(recent * br, 0)[None, :],
            ar * q0 + ai * p0 + tl.sum(recent * bi, 0)[None, :],
        )
    tl.store(last + at, p0)
    tl.store(last + at + N, q0)


@triton.jit
def _power(power, system, exponent, modes, Q: tl.constexpr, N: tl.constexpr):
    """lam^exponent, (1, N) real and imaginary."""
    at = power + (system * 2 * (Q + 1) + exponent) * N + modes[None, :]
    return tl.load(at), tl.load(at + (Q + 1) * N)


@triton.jit
def _backward(
    power,
    inward,
    outward,
    kernel,
    u,
    x0,
    resets,
    offsets,
    dy,
    dlast,
    kept,
    dpower,
    dinward,
    doutward,
    dgram,
    du,
    dx0,
    systems,
    length,
    tiles,
    Q: tl.constexpr,
    R: tl.constexpr,
    N: tl.constexpr,
    RESETS: tl.constexpr,
):
    """kept: (sequences, S, tiles, 2, N) for states before tiles; gradients of tables are those of one sequence."""
    s, system = tl.program_id(0), tl.program_id(1)
    start, stop = tl.load(offsets + s), tl.load(offsets + s + 1)
    shift = (start // length * (systems - 1) + system).to(tl.int64) * length
    u += shift
    dy += shift
    du += shift
    order, steps, modes = tl.arange(0, R), tl.arange(0, Q), tl.arange(0, N)
    wr, wi = _table(inward, system, Q - 1 - steps, modes, Q, N)
    ar, ai = _power(power, system, Q, modes, Q, N)
    number_of = (s * systems + system).to(tl.int64)
    at = number_of * 2 * N + modes[None, :]
    kept += number_of * tiles * 2 * N + modes[None, :]
    xr, xi = tl.load(x0 + at), tl.load(x0 + at + N)
    p0, q0 = xr, xi
    for first in range(start, stop, Q * R):
        tl.store(kept, p0)
        tl.store(kept + N, q0)
        kept += 2 * N
        p, q = _states(u, resets, start, stop, first, order, steps, wr, wi, ar, ai, p0, q0, xr, xi, Q, RESETS)
        final = tl.minimum((stop - first - 1) // Q, R - 1)
        p0, q0 = _row(p, order, final), _row(q, order, final)
    tl.debug_barrier()
    # The last chunk of 1 to Q steps, p0, q0 before it: what dlast gives to its steps, to the tables and to that state.
    number = tl.where(stop > start, (stop - start + Q - 1) % Q + 1, 0)
    final_chunk = (stop - start - 1) // Q
    _, alive = _rest(resets, stop, number, steps, RESETS)
    lr, li = tl.load(dlast + at), tl.load(dlast + at + N)
    before = number - 1 - steps  # steps from each of the chunk's to its end
    reached = before >= 0
    if RESETS:
        fresh = tl.load(resets + stop - 1 - before, mask=reached, other=0).to(tl.int32)
        reached = reached & (tl.sum(fresh, 0) - tl.cumsum(fresh, 0) == 0)
    tr, ti = _table(inward, system, tl.where(reached, before, -1), modes, Q, N)
    late = tl.sum(tr * lr + ti * li, 1)
    far = Q - 1 - steps
    reach_far = far < number
    if RESETS:
        fresh = tl.load(resets + stop - 1 - far, mask=reach_far, other=0).to(tl.int32)
        reach_far = reach_far & (tl.sum(fresh, 0) - tl.cumsum(fresh, 0) == 0)
    recent = tl.load(u + stop - 1 - far, mask=reach_far, other=0.0)[:, None]
    to_in_r, to_in_i = recent * lr, recent * li
    br, bi = _power(power, system, number, modes, Q, N)
    lr, li = tl.where(alive, lr, 0.0), tl.where(alive, li, 0.0)
    end_r, end_i = lr * p0 + li * q0, li * p0 - lr * q0
    extra_r, extra_i = br * lr + bi * li, br * li - bi * lr
    cr, ci = _table(outward, system, steps, modes, Q, N)
    vr, vi = tl.trans(wr), tl.trans(wi)
    turned = _toeplitz(kernel, system, steps, Q, True)
    to_out_r, to_out_i = tl.zeros_like(cr), tl.zeros_like(ci)
    gram = tl.zeros_like(turned)
    to_a_r, to_a_i = tl.zeros_like(ar), tl.zeros_like(ai)
    m0, n0 = tl.zeros_like(ar), tl.zeros_like(ai)  # what the state behind the tile loses
    for back in range(0, stop - start, Q * R):
        first = start + ((stop - start - 1) // (Q * R)) * (Q * R) - back
        kept -= 2 * N
        p, q = tl.load(kept), tl.load(kept + N)
        p, q = _states(u, resets, start, stop, first, order, steps, wr, wi, ar, ai, p, q, xr, xi, Q, RESETS)
        time = first + order[:, None] * Q + steps[None, :]
        valid = time < stop
        drive = tl.load(u + time, mask=valid, other=0.0)
        given = tl.load(dy + time, mask=valid, other=0.0)
        after = time + Q
        later = tl.load(dy + after, mask=after < stop, other=0.0)
        through, arrives, direct, carries = later, given, drive, (order >= 0)[:, None]
        if RESETS:
            seen, count = _chunk_resets(resets, time, valid)
            then, next_count = _chunk_resets(resets, after, after < stop)
            through = tl.where(then == 0, later, 0.0)
            arrives = tl.where(seen == 0, given, 0.0)
            direct = tl.where(seen == count, drive, 0.0)
            carries = next_count == 0
        # Row r: what the state behind chunk r loses, by the outputs of chunk r + 1 and all that come after it.
        m, n = _product(through, cr), -_product(through, ci)
        chunk = ((first - start) // Q + order)[:, None]
        m, n = tl.where(chunk == final_chunk - 1, m + extra_r, m), tl.where(chunk == final_chunk - 1, n + extra_i, n)
        bottom = (order == R - 1)[:, None]
        m, n = (
            tl.where(bottom & carries, m + ar * m0 + ai * n0, m),
            tl.where(bottom & carries, n + ar * n0 - ai * m0, n),
        )
        hr, hi = tl.where(carries, ar, 0.0), tl.where(carries, -ai, 0.0)
        hr, hi, m, n = tl.associative_scan((hr, hi, m, n), 0, _join, reverse=True)
        m0, n0 = _row(m, order, 0), _row(n, order, 0)
        result = _product(m, vr) + _product(n, vi)
        if RESETS:
            result = tl.where(seen == count, result, 0.0)
            together = seen[:, :, None] == seen[:, None, :]
            result += tl.sum(tl.where(together, given[:, None, :] * tl.trans(turned)[None, :, :], 0.0), 2)
            gram += tl.sum(tl.where(together, drive[:, :, None] * given[:, None, :], 0.0), 0)
            held = count == 0
        else:
            result += _product(given, turned)
            gram += _product(tl.trans(drive), given)
            held = carries
        result += tl.where(chunk == final_chunk, late[None, :], 0.0)
        tl.store(du + time, result, mask=valid)
        turned_drive, turned_given = tl.trans(direct), tl.trans(arrives)
        to_in_r += _product(turned_drive, m)
        to_in_i += _product(turned_drive, n)
        to_out_r += _product(turned_given, p)
        to_out_i -= _product(turned_given, q)
        to_a_r += tl.sum(tl.where(held, m * p + n * q, 0.0), 0)[None, :]
        to_a_i += tl.sum(tl.where(held, n * p - m * q, 0.0), 0)[None, :]
    # The state before the first chunk: by that chunk's outputs, and by the state behind it.
    time = start + steps
    valid = time < stop
    given = tl.load(dy + time, mask=valid, other=0.0)
    if RESETS:
        fresh = tl.load(resets + time, mask=valid, other=0).to(tl.int32)
        given = tl.where(tl.cumsum(fresh, 0) == 0, given, 0.0)
        goes = tl.sum(fresh, 0) == 0
        m0, n0 = tl.where(goes, m0, 0.0), tl.where(goes, n0, 0.0)
    xr = tl.sum(given[:, None] * cr, 0)[None, :] + ar * m0 + ai * n0
    xi = -tl.sum(given[:, None] * ci, 0)[None, :] + ar * n0 - ai * m0
    if final_chunk <= 0:
        xr += extra_r
        xi += extra_i
    if stop == start:
        xr, xi = tl.load(dlast + at), tl.load(dlast + at + N)
    tl.store(dx0 + at, xr)
    tl.store(dx0 + at + N, xi)
    table = number_of * 2 * Q * N + steps[:, None] * N + modes[None, :]
    tl.store(dinward + table + (Q - 1 - 2 * steps[:, None]) * N, to_in_r)
    tl.store(dinward + table + (Q - 1 - 2 * steps[:, None]) * N + Q * N, to_in_i)
    tl.store(doutward + table, to_out_r)
    tl.store(doutward + table + Q * N, to_out_i)
    tl.store(dgram + number_of * Q * Q + steps[:, None] * Q + steps[None, :], gram)
    at = number_of * 4 * N + modes[None, :]
    tl.store(dpower + at, to_a_r)
    tl.store(dpower + at + N, to_a_i)
    tl.store(dpower + at + 2 * N, end_r)
    tl.store(dpower + at + 3 * N, end_i)


def forward(
    tables: ChunkTables, u: Tensor, x0: Tensor, resets: Tensor | None, offsets: Tensor
) -> tuple[Tensor, Tensor]:
    """u (b, S, L), x0 (k, S, 2, N), contiguous -> y, last."""
    y, last = torch.empty_like(u), torch.empty_like(x0)
    count, systems, _, width = x0.shape
    _forward[(count, systems)](
        *(*tables, u, x0, u if resets is None else resets.view(torch.uint8), offsets, y, last, systems, u.shape[2]),
        Q=Q,
        R=CHUNKS,
        N=width,
        RESETS=resets is not None,
        num_warps=4,
    )
    return y, last


def backward(
    tables: ChunkTables, u: Tensor, x0: Tensor, resets: Tensor | None, offsets: Tensor, dy: Tensor, dlast: Tensor
) -> tuple[ChunkTables, Tensor, Tensor]:
    """Gradients of the tables, summed over sequences in their order, and du, dx0."""
    count, systems, _, width = x0.shape
    tiles = triton.cdiv(u.shape[2], Q * CHUNKS)
    ends = u.new_empty((count, systems, 2, 2, width))
    inward, outward = (u.new_empty((count, systems, 2, Q, width)) for _ in range(2))
    gram, kept = u.new_empty((count, systems, Q, Q)), u.new_empty((count, systems, tiles, 2, width))
    du, dx0 = torch.empty_like(u), torch.empty_like(x0)
    _backward[(count, systems)](
        *(*tables, u, x0, u if resets is None else resets.view(torch.uint8), offsets, dy, dlast),
        *(kept, ends, inward, outward, gram, du, dx0, systems, u.shape[2], tiles),
        Q=Q,
        R=CHUNKS,
        N=width,
        RESETS=resets is not None,
        num_warps=4,
    )
    power = torch.zeros_like(tables.power)
    power[:, :, Q] = ends[:, :, 0].sum(0)
    sizes = offsets.diff()
    by = torch.where(sizes > 0, (sizes + Q - 1) % Q + 1, 0)  # steps of the last chunk: the power that dlast came by
    power += torch.einsum("ke,kstn->sten", torch.nn.functional.one_hot(by, Q + 1).to(u.dtype), ends[:, :, 1])
    total = gram.sum(0)
    kernel = torch.stack([total.diagonal(lag, 1, 2).sum(-1) for lag in range(Q)], -1)
    return ChunkTables(power, inward.sum(0), outward.sum(0), kernel), du, dx0


def specimens() -> Iterator[Specimen]:
    """64 modes, with and without resets."""
    tables = ("power", "inward", "outward", "kernel", "u", "x0")
    reals = {
        _forward: (*tables, "y", "last"),
        _backward: (*tables, "dy", "dlast", "kept", "dpower", "dinward", "doutward", "dgram", "du", "dx0"),
    }
    for kernel, names in reals.items():
        integers = ("systems", "length", "tiles") if kernel is _backward else ("systems", "length")
        yield Specimen(
            kernel=kernel,
            types={
                **dict.fromkeys(names, "*fp32"),
                **dict.fromkeys(integers, "i32"),
                "resets": "*u8",
                "offsets": "*i64",
            },
            constants={"Q": Q, "R": CHUNKS, "N": 64, "RESETS": False},
            label="fp32 N=64",
            aligned=("length",),
        )
