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

from ssmtool_kernels.diagonal_scan import triton_backward
from ssmtool_kernels.diagonal_scan.chunk_tables import ChunkTables
from ssmtool_kernels.diagonal_scan.triton_backward import backward
from ssmtool_kernels.diagonal_scan.triton_tiles import (
    CHUNKS,
    Q,
    chunk_resets,
    power_of,
    product,
    rest_of,
    row_of,
    states_before,
    table_of,
    toeplitz,
)
from ssmtool_kernels.specimen import Specimen

__all__ = ["backward", "forward", "specimens"]


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
    wr, wi = table_of(inward, system, Q - 1 - steps, modes, Q, N)
    cr, ci = table_of(outward, system, steps, modes, Q, N)
    cr, ci = tl.trans(cr), tl.trans(ci)
    within = toeplitz(kernel, system, steps, Q, False)
    ar, ai = power_of(power, system, Q, modes, Q, N)
    at = (s * systems + system).to(tl.int64) * 2 * N + modes[None, :]
    xr, xi = tl.load(x0 + at), tl.load(x0 + at + N)
    p0, q0 = xr, xi
    for first in range(start, stop, Q * R):
        p, q = states_before(u, resets, start, stop, first, order, steps, wr, wi, ar, ai, p0, q0, xr, xi, Q, RESETS)
        time = first + order[:, None] * Q + steps[None, :]
        valid = time < stop
        drive = tl.load(u + time, mask=valid, other=0.0)
        result = product(p, cr) - product(q, ci)
        if RESETS:
            seen, _ = chunk_resets(resets, time, valid)
            result = tl.where(seen == 0, result, 0.0)
            together = seen[:, :, None] == seen[:, None, :]
            result += tl.sum(tl.where(together, drive[:, :, None] * within[None, :, :], 0.0), 1)
        else:
            result += product(drive, within)
        tl.store(y + time, result, mask=valid)
        final = tl.minimum((stop - first - 1) // Q, R - 1)
        p0, q0 = row_of(p, order, final), row_of(q, order, final)
    # p0, q0 is the state before the last chunk, which has 1 to Q steps.
    if stop > start:
        number = (stop - start - 1) % Q + 1
        reach, alive = rest_of(resets, stop, number, steps, RESETS)
        recent = tl.load(u + stop - 1 - steps, mask=reach, other=0.0)[:, None]
        br, bi = table_of(inward, system, steps, modes, Q, N)
        ar, ai = power_of(power, system, number, modes, Q, N)
        ar, ai = tl.where(alive, ar, 0.0), tl.where(alive, ai, 0.0)
        p0, q0 = (
            ar * p0 - ai * q0 + tl.sum(recent * br, 0)[None, :],
            ar * q0 + ai * p0 + tl.sum(recent * bi, 0)[None, :],
        )
    tl.store(last + at, p0)
    tl.store(last + at + N, q0)


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


def specimens() -> Iterator[Specimen]:
    """64 modes, both directions."""
    yield Specimen(
        kernel=_forward,
        types={
            **dict.fromkeys(("power", "inward", "outward", "kernel", "u", "x0", "y", "last"), "*fp32"),
            **dict.fromkeys(("systems", "length"), "i32"),
            "resets": "*u8",
            "offsets": "*i64",
        },
        constants={"Q": Q, "R": CHUNKS, "N": 64, "RESETS": False},
        label="fp32 N=64",
        aligned=("length",),
    )
    yield from triton_backward.specimens()
