"""The adjoint of `triton.py`: states once more, one kept per tile, then backwards through the tiles."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmtool_kernels.diagonal_scan.chunk_tables import ChunkTables
from ssmtool_kernels.diagonal_scan.triton_tiles import (
    CHUNKS,
    Q,
    chunk_resets,
    join,
    power_of,
    product,
    rest_of,
    row_of,
    states_before,
    table_of,
    toeplitz,
)
from ssmtool_kernels.specimen import Specimen


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
    wr, wi = table_of(inward, system, Q - 1 - steps, modes, Q, N)
    ar, ai = power_of(power, system, Q, modes, Q, N)
    number_of = (s * systems + system).to(tl.int64)
    at = number_of * 2 * N + modes[None, :]
    kept += number_of * tiles * 2 * N + modes[None, :]
    xr, xi = tl.load(x0 + at), tl.load(x0 + at + N)
    p0, q0 = xr, xi
    for first in range(start, stop, Q * R):
        tl.store(kept, p0)
        tl.store(kept + N, q0)
        kept += 2 * N
        p, q = states_before(u, resets, start, stop, first, order, steps, wr, wi, ar, ai, p0, q0, xr, xi, Q, RESETS)
        final = tl.minimum((stop - first - 1) // Q, R - 1)
        p0, q0 = row_of(p, order, final), row_of(q, order, final)
    tl.debug_barrier()
    # The last chunk of 1 to Q steps, p0, q0 before it: what dlast gives to its steps, to the tables and to that state.
    number = tl.where(stop > start, (stop - start + Q - 1) % Q + 1, 0)
    final_chunk = (stop - start - 1) // Q
    _, alive = rest_of(resets, stop, number, steps, RESETS)
    lr, li = tl.load(dlast + at), tl.load(dlast + at + N)
    before = number - 1 - steps  # steps from each of the chunk's to its end
    reached = before >= 0
    if RESETS:
        fresh = tl.load(resets + stop - 1 - before, mask=reached, other=0).to(tl.int32)
        reached = reached & (tl.sum(fresh, 0) - tl.cumsum(fresh, 0) == 0)
    tr, ti = table_of(inward, system, tl.where(reached, before, -1), modes, Q, N)
    late = tl.sum(tr * lr + ti * li, 1)
    far = Q - 1 - steps
    reach_far = far < number
    if RESETS:
        fresh = tl.load(resets + stop - 1 - far, mask=reach_far, other=0).to(tl.int32)
        reach_far = reach_far & (tl.sum(fresh, 0) - tl.cumsum(fresh, 0) == 0)
    recent = tl.load(u + stop - 1 - far, mask=reach_far, other=0.0)[:, None]
    to_in_r, to_in_i = recent * lr, recent * li
    br, bi = power_of(power, system, number, modes, Q, N)
    lr, li = tl.where(alive, lr, 0.0), tl.where(alive, li, 0.0)
    end_r, end_i = lr * p0 + li * q0, li * p0 - lr * q0
    extra_r, extra_i = br * lr + bi * li, br * li - bi * lr
    cr, ci = table_of(outward, system, steps, modes, Q, N)
    vr, vi = tl.trans(wr), tl.trans(wi)
    turned = toeplitz(kernel, system, steps, Q, True)
    to_out_r, to_out_i = tl.zeros_like(cr), tl.zeros_like(ci)
    gram = tl.zeros_like(turned)
    to_a_r, to_a_i = tl.zeros_like(ar), tl.zeros_like(ai)
    m0, n0 = tl.zeros_like(ar), tl.zeros_like(ai)  # what the state behind the tile loses
    for back in range(0, stop - start, Q * R):
        first = start + ((stop - start - 1) // (Q * R)) * (Q * R) - back
        kept -= 2 * N
        p, q = tl.load(kept), tl.load(kept + N)
        p, q = states_before(u, resets, start, stop, first, order, steps, wr, wi, ar, ai, p, q, xr, xi, Q, RESETS)
        time = first + order[:, None] * Q + steps[None, :]
        valid = time < stop
        drive = tl.load(u + time, mask=valid, other=0.0)
        given = tl.load(dy + time, mask=valid, other=0.0)
        after = time + Q
        later = tl.load(dy + after, mask=after < stop, other=0.0)
        through, arrives, direct, carries = later, given, drive, (order >= 0)[:, None]
        if RESETS:
            seen, count = chunk_resets(resets, time, valid)
            then, next_count = chunk_resets(resets, after, after < stop)
            through = tl.where(then == 0, later, 0.0)
            arrives = tl.where(seen == 0, given, 0.0)
            direct = tl.where(seen == count, drive, 0.0)
            carries = next_count == 0
        # Row r: what the state behind chunk r loses, by the outputs of chunk r + 1 and all that come after it.
        m, n = product(through, cr), -product(through, ci)
        chunk = ((first - start) // Q + order)[:, None]
        m, n = tl.where(chunk == final_chunk - 1, m + extra_r, m), tl.where(chunk == final_chunk - 1, n + extra_i, n)
        bottom = (order == R - 1)[:, None]
        m, n = (
            tl.where(bottom & carries, m + ar * m0 + ai * n0, m),
            tl.where(bottom & carries, n + ar * n0 - ai * m0, n),
        )
        hr, hi = tl.where(carries, ar, 0.0), tl.where(carries, -ai, 0.0)
        hr, hi, m, n = tl.associative_scan((hr, hi, m, n), 0, join, reverse=True)
        m0, n0 = row_of(m, order, 0), row_of(n, order, 0)
        result = product(m, vr) + product(n, vi)
        if RESETS:
            result = tl.where(seen == count, result, 0.0)
            together = seen[:, :, None] == seen[:, None, :]
            result += tl.sum(tl.where(together, given[:, None, :] * tl.trans(turned)[None, :, :], 0.0), 2)
            gram += tl.sum(tl.where(together, drive[:, :, None] * given[:, None, :], 0.0), 0)
            held = count == 0
        else:
            result += product(given, turned)
            gram += product(tl.trans(drive), given)
            held = carries
        result += tl.where(chunk == final_chunk, late[None, :], 0.0)
        tl.store(du + time, result, mask=valid)
        turned_drive, turned_given = tl.trans(direct), tl.trans(arrives)
        to_in_r += product(turned_drive, m)
        to_in_i += product(turned_drive, n)
        to_out_r += product(turned_given, p)
        to_out_i -= product(turned_given, q)
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
    """64 modes."""
    names = ("power", "inward", "outward", "kernel", "u", "x0", "dy", "dlast")
    names += ("kept", "dpower", "dinward", "doutward", "dgram", "du", "dx0")
    yield Specimen(
        kernel=_backward,
        types={
            **dict.fromkeys(names, "*fp32"),
            **dict.fromkeys(("systems", "length", "tiles"), "i32"),
            "resets": "*u8",
            "offsets": "*i64",
        },
        constants={"Q": Q, "R": CHUNKS, "N": 64, "RESETS": False},
        label="fp32 N=64",
        aligned=("length",),
    )
