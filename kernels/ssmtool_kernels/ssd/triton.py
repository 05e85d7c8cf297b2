"""The scan of Mamba-2 on a GPU (Dao and Gu, 2024, section 6): matrix products in tiles of time, a state between them.

One program takes a chunk of a sequence, a head and a block of the head's rows, and walks through the chunk tile by
tile with the state in registers. Where sequences and heads are many, a chunk is the whole sequence: one kernel that
reads and writes everything once. Where they are few, chunks are shorter, and two small kernels go before it: what every
chunk adds to the state, and the state before every chunk. Where a state does not fit into registers beside the products
(float32, more than 128 states), chunks are single tiles.

Decays are recomputed from dt in every program: a cumulative sum over a tile costs less than a kernel of its own.
Factors are bfloat16 or float16 if x is, sums float32. Resets mask exponents: step j reaches step i if no reset lies
between, which is so if as many resets have been met up to j as up to i.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmtool_kernels.specimen import Specimen
from ssmtool_kernels.ssd.triton_states import at_end, chunks, decays, half, readable, sizes, state_of_chunk, states_of

PROGRAMS = 512  # enough for the largest GPUs: with fewer, sequences are cut into chunks
STEPS = 64  # of a tile, where the state is carried


@triton.jit
def _scan(
    x,
    dt,
    A,
    B,
    C,
    D,
    z,
    resets,
    before,
    starts,
    stops,
    y,
    raw,
    last,
    heads,
    groups,
    width,
    n,
    Q: tl.constexpr,
    BP: tl.constexpr,
    BN: tl.constexpr,
    SLICE: tl.constexpr,
    SKIP: tl.constexpr,
    GATE: tl.constexpr,
    KEEP: tl.constexpr,
    RESETS: tl.constexpr,
    FINAL: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """y of a chunk from the state before it; `last` where a chunk is a whole sequence (FINAL)."""
    chunk, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    group = head // (heads // groups)
    start, stop = tl.load(starts + chunk), tl.load(stops + chunk)
    steps, p, k = tl.arange(0, Q), part * BP + tl.arange(0, BP), tl.arange(0, BN)
    inside = (k < n)[:, None] & (p < width)[None, :]
    here = (chunk.to(tl.int64) * heads + head) * width * n + p[None, :] * n + k[:, None]
    h = tl.load(before + here, mask=inside, other=0.0)  # (N, P), so that no product is transposed
    for first in range(start, stop, Q):
        rows = first + steps
        valid = rows < stop
        delta, total, met = decays(dt, A, resets, rows, valid, head, heads, RESETS)
        end, met_end = at_end(total, steps, Q), at_end(met, steps, Q)
        # Offsets within a tile are 32 bits wide: 64 would take twice the registers.
        shared, to_shared = (steps * (groups * n))[:, None] + k[None, :], (first * groups + group) * n
        scores = tl.zeros((Q, Q), dtype=before.dtype.element_ty)
        for above in range(0, n, SLICE):  # in slices: whole factors would leave no registers
            some = above + tl.arange(0, SLICE)
            part_of = (steps * (groups * n))[:, None] + some[None, :]
            b = tl.load(B + to_shared + part_of, mask=valid[:, None] & (some < n)[None, :], other=0.0)
            c = tl.load(C + to_shared + part_of, mask=valid[:, None] & (some < n)[None, :], other=0.0)
            scores += tl.dot(c, tl.trans(b), input_precision=PRECISION)
        b = tl.load(B + to_shared + shared, mask=valid[:, None] & (k < n)[None, :], other=0.0)
        c = tl.load(C + to_shared + shared, mask=valid[:, None] & (k < n)[None, :], other=0.0)
        own, to_own = (steps * (heads * width))[:, None] + p[None, :], (first * heads + head) * width
        present = valid[:, None] & (p < width)[None, :]
        u = tl.load(x + to_own + own, mask=present, other=0.0)

        past = steps[:, None] >= steps[None, :]
        if RESETS:
            past = past & (met[:, None] == met[None, :])
        weights = tl.exp(tl.where(past, total[:, None] - total[None, :], float("-inf"))) * delta[None, :]
        weights *= scores
        out = tl.dot(c, h.to(c.dtype), input_precision=PRECISION)
        out = tl.where((met == 0)[:, None], out * tl.exp(total)[:, None], 0.0)
        out += tl.dot(weights.to(u.dtype), u, input_precision=PRECISION)

        wide = u.to(total.dtype)
        to_end = tl.exp(tl.where(met == met_end, end - total, float("-inf"))) * delta
        added = tl.dot(tl.trans(b), (wide * to_end[:, None]).to(u.dtype), input_precision=PRECISION)
        # Chosen, not multiplied by 0: a reset also forgets what is no number.
        h = tl.where(met_end == 0, h * tl.exp(end), 0.0) + added

        if SKIP:
            out += tl.load(D + head * width + p, mask=p < width, other=0.0)[None, :] * wide
        if KEEP:
            tl.store(raw + to_own + own, out.to(raw.dtype.element_ty), mask=present)
        if GATE:
            gate = tl.load(z + to_own + own, mask=present, other=0.0).to(total.dtype)
            out *= gate / (1.0 + tl.exp(-gate))
        tl.store(y + to_own + own, out.to(y.dtype.element_ty), mask=present)
    if FINAL:
        tl.store(last + here, h, mask=inside)


@triton.jit
def _tile(
    x,
    dt,
    A,
    B,
    C,
    D,
    z,
    resets,
    before,
    starts,
    stops,
    y,
    raw,
    heads,
    groups,
    width,
    n,
    Q: tl.constexpr,
    BP: tl.constexpr,
    BN: tl.constexpr,
    SKIP: tl.constexpr,
    GATE: tl.constexpr,
    KEEP: tl.constexpr,
    RESETS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The same for chunks of one tile: the state is read in slices of BN and never held as a whole."""
    chunk, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    group = head // (heads // groups)
    start, stop = tl.load(starts + chunk), tl.load(stops + chunk)
    steps, p = tl.arange(0, Q), part * BP + tl.arange(0, BP)
    rows = start + steps
    valid = rows < stop
    delta, total, met = decays(dt, A, resets, rows, valid, head, heads, RESETS)
    shared, to_shared = (steps * (groups * n))[:, None], (start * groups + group) * n
    state = (chunk.to(tl.int64) * heads + head) * width * n
    scores = tl.zeros((Q, Q), dtype=before.dtype.element_ty)
    out = tl.zeros((Q, BP), dtype=before.dtype.element_ty)
    for first in range(0, n, BN):
        k = first + tl.arange(0, BN)
        here = valid[:, None] & (k < n)[None, :]
        b = tl.load(B + to_shared + shared + k[None, :], mask=here, other=0.0)
        c = tl.load(C + to_shared + shared + k[None, :], mask=here, other=0.0)
        inside = (k < n)[:, None] & (p < width)[None, :]
        h = tl.load(before + state + p[None, :] * n + k[:, None], mask=inside, other=0.0)
        scores += tl.dot(c, tl.trans(b), input_precision=PRECISION)
        out += tl.dot(c, h.to(c.dtype), input_precision=PRECISION)
    own, to_own = (steps * (heads * width))[:, None] + p[None, :], (start * heads + head) * width
    present = valid[:, None] & (p < width)[None, :]
    u = tl.load(x + to_own + own, mask=present, other=0.0)
    past = steps[:, None] >= steps[None, :]
    if RESETS:
        past = past & (met[:, None] == met[None, :])
    scores *= tl.exp(tl.where(past, total[:, None] - total[None, :], float("-inf"))) * delta[None, :]
    out = tl.where((met == 0)[:, None], out * tl.exp(total)[:, None], 0.0)
    out += tl.dot(scores.to(u.dtype), u, input_precision=PRECISION)
    if SKIP:
        out += tl.load(D + head * width + p, mask=p < width, other=0.0)[None, :] * u.to(total.dtype)
    if KEEP:
        tl.store(raw + to_own + own, out.to(raw.dtype.element_ty), mask=present)
    if GATE:
        gate = tl.load(z + to_own + own, mask=present, other=0.0).to(total.dtype)
        out *= gate / (1.0 + tl.exp(-gate))
    tl.store(y + to_own + own, out.to(y.dtype.element_ty), mask=present)


def carrying(dtype: torch.dtype, width: int, n: int) -> dict[str, int] | None:
    """Tiles of the kernel that holds (n, rows) of the state in registers; None where it does not fit."""
    if n > 128 or not half(dtype):
        return None
    rows = min(32, max(16, triton.next_power_of_2(width)))
    states = max(16, triton.next_power_of_2(n))
    return {"Q": STEPS, "BP": rows, "BN": states, "SLICE": min(32, states)}


def forward(
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
) -> tuple[Tensor, Tensor, Tensor]:
    """Flat tensors, see `registered`: y, last, and y before the gate if `keep`."""
    dtype = x.dtype
    x, B, C, z = readable(x, B, C, z)  # type: ignore[assignment]
    (total, heads, width), (groups, n) = x.shape, B.shape[1:]
    blocks = carrying(x.dtype, width, n)
    carry = blocks is not None
    blocks = blocks or sizes(x.dtype, width, n)
    parts = triton.cdiv(width, blocks["BP"])
    y, raw = torch.empty_like(x), torch.empty_like(x) if keep else x.new_empty(0)
    whole = carry and len(h0) * heads * parts >= PROGRAMS
    if whole:
        starts, stops, before, last = offsets[:-1], offsets[1:], h0, torch.empty_like(h0)
    else:
        tiles = max(1, total * heads * parts // (PROGRAMS * blocks["Q"])) if carry else 1
        starts, stops, _ = cut = chunks(offsets, total, tiles * blocks["Q"])
        before, last = states_of(B, x, dt, A, resets, h0, cut, reverse=False)
    options = {"SKIP": D is not None, "GATE": z is not None, "KEEP": keep, "RESETS": resets is not None}
    given = (x, dt, A, B, C, A if D is None else D, x if z is None else z)
    given += (A if resets is None else resets.view(torch.uint8), before, starts, stops, y, raw if keep else y)
    grid = (len(starts), heads, parts)
    if carry:
        _scan[grid](
            *(*given, last, heads, groups, width, n),
            **blocks,
            **options,
            FINAL=whole,
            PRECISION="ieee",
            num_warps=8,
            num_stages=1,
        )
    else:
        _tile[grid](*given, heads, groups, width, n, **blocks, **options, PRECISION="ieee", num_warps=8)
    return y.to(dtype), last, raw.to(dtype)


def specimens() -> Iterator[Specimen]:
    """Heads of 64 rows and 128 states, float32 and bfloat16; everything optional switched on."""
    from ssmtool_kernels.ssd import triton_backward, triton_step

    for data, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        types = {
            **dict.fromkeys(("x", "B", "C", "z", "y", "raw", "left", "right"), f"*{data}"),
            **dict.fromkeys(("dt", "A", "D", "before", "last", "states", "through"), "*fp32"),
            "resets": "*u8",
            "starts": "*i64",
            "stops": "*i64",
            **dict.fromkeys(("heads", "groups", "width", "n"), "i32"),
        }
        carried = carrying(dtype, 64, 128)
        options = {"RESETS": True, "PRECISION": "ieee"}
        outputs = {**options, "SKIP": True, "GATE": True, "KEEP": False}
        kinds = [(state_of_chunk, {**sizes(dtype, 64, 128), **options, "REVERSE": False}, 4, 2)]
        kinds.append((_tile, {**sizes(dtype, 64, 128), **outputs}, 8, 2))
        if carried:
            kinds.append((_scan, {**carried, **outputs, "FINAL": True}, 8, 1))
        for kernel, constants, warps, stages in kinds:
            yield Specimen(
                kernel=kernel,
                types={name: types[name] for name in kernel.arg_names if name in types},
                constants=constants,
                label=f"{data} N=128",
                warps=warps,
                stages=stages,
                aligned=("width", "n"),
            )
    yield from triton_backward.specimens()
    yield from triton_step.specimens()
