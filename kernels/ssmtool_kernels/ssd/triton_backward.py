"""The adjoint of the scan of Mamba-2 on a GPU.

The states before every tile are computed again and kept, the losses of the states after every tile alike, from the end.
Then tiles are independent: one kernel for what is lost by x, dt, A and D, a program per tile and head; one for B
and C, a program per tile, group and part of its heads, whose sums over these heads stay in registers. Transposed
products are computed as such: a product that is cast and transposed goes wrong on Hopper with some compilers.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmtool_kernels.specimen import Specimen
from ssmtool_kernels.ssd.triton import at_end, chunks, decays, readable, sizes, states_of

HEADS = 8  # of a group, whose parts of dB and dC one program adds up


@triton.jit
def _own(
    x,
    dt,
    A,
    B,
    C,
    D,
    resets,
    before,
    after,
    starts,
    stops,
    dy,
    dx,
    ddt,
    dA,
    dD,
    heads,
    groups,
    width,
    n,
    Q: tl.constexpr,
    BP: tl.constexpr,
    BN: tl.constexpr,
    SKIP: tl.constexpr,
    RESETS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """before: states before every tile; after: losses of the states after it. dA (m, H), dD (m, H, P): of one tile."""
    chunk, head = tl.program_id(0), tl.program_id(1)
    group = head // (heads // groups)
    start, stop = tl.load(starts + chunk), tl.load(stops + chunk)
    steps, k = tl.arange(0, Q), tl.arange(0, BN)
    rows = start + steps
    valid = rows < stop
    delta, total, met = decays(dt, A, resets, rows, valid, head, heads, RESETS)
    end, met_end = at_end(total, steps, Q), at_end(met, steps, Q)
    from_start = tl.where(met == 0, tl.exp(total), 0.0)
    to_end = tl.exp(tl.where(met == met_end, end - total, float("-inf")))
    shared, to_shared = (steps * (groups * n))[:, None] + k[None, :], (start * groups + group) * n
    b = tl.load(B + to_shared + shared, mask=valid[:, None] & (k < n)[None, :], other=0.0)
    c = tl.load(C + to_shared + shared, mask=valid[:, None] & (k < n)[None, :], other=0.0)
    # Matrices are indexed (j, i): what step j gave to the later step i.
    future = steps[:, None] <= steps[None, :]
    if RESETS:
        future = future & (met[:, None] == met[None, :])
    weights = tl.exp(tl.where(future, total[None, :] - total[:, None], float("-inf")))
    weights *= tl.dot(b, tl.trans(c), input_precision=PRECISION)

    matches = tl.zeros((Q, Q), dtype=total.dtype)
    direct, came, went = tl.zeros_like(total), tl.zeros_like(total), tl.zeros_like(total)
    kept = tl.sum(tl.zeros_like(total), 0)
    base, to_own = (chunk.to(tl.int64) * heads + head) * width, (start * heads + head) * width
    for first in range(0, width, BP):
        p = first + tl.arange(0, BP)
        present = valid[:, None] & (p < width)[None, :]
        own = (steps * (heads * width))[:, None] + p[None, :]
        u = tl.load(x + to_own + own, mask=present, other=0.0)
        lost = tl.load(dy + to_own + own, mask=present, other=0.0)
        inside = (k < n)[:, None] & (p < width)[None, :]
        h = tl.load(before + base * n + p[None, :] * n + k[:, None], mask=inside, other=0.0)
        g = tl.load(after + base * n + p[None, :] * n + k[:, None], mask=inside, other=0.0)
        wide, wide_lost = u.to(total.dtype), lost.to(total.dtype)
        kept += tl.sum(tl.sum(h * g, 1), 0)
        came += tl.sum(tl.dot(c, h.to(c.dtype), input_precision=PRECISION) * wide_lost, 1)
        beyond = tl.dot(b, g.to(b.dtype), input_precision=PRECISION) * to_end[:, None]
        went += tl.sum(beyond * wide, 1)
        du = beyond + tl.dot(weights.to(lost.dtype), lost, input_precision=PRECISION)
        direct += tl.sum(du * wide, 1)
        matches += tl.dot(u, tl.trans(lost), input_precision=PRECISION)
        du *= delta[:, None]
        if SKIP:
            du += tl.load(D + head * width + p, mask=p < width, other=0.0)[None, :] * wide_lost
        tl.store(dx + to_own + own, du.to(dx.dtype.element_ty), mask=present)
        tl.store(dD + base + p, tl.sum(wide * wide_lost, 0), mask=p < width)

    # The decay of step t stands between every j < t and i >= t, the state before the tile and the one after it. Sums
    # over all i, less those over i < t, would cancel.
    between = tl.cumsum(matches * weights * delta[:, None], 1, reverse=True)
    to_log = tl.sum(tl.where(steps[:, None] < steps[None, :], between, 0.0), 0)
    went *= delta
    to_log += tl.cumsum(came * from_start, 0, reverse=True) + tl.cumsum(went, 0) - went
    to_log += kept * tl.where(met_end == 0, tl.exp(end), 0.0)
    tl.store(ddt + rows * heads + head, direct + tl.load(A + head) * to_log, mask=valid)
    tl.store(dA + chunk * heads + head, tl.sum(delta * to_log, 0))


@triton.jit
def _shared(
    x,
    dt,
    A,
    B,
    C,
    resets,
    before,
    after,
    starts,
    stops,
    dy,
    dB,
    dC,
    heads,
    groups,
    width,
    n,
    total_steps,
    Q: tl.constexpr,
    BP: tl.constexpr,
    BN: tl.constexpr,
    HEADS: tl.constexpr,
    RESETS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """dB, dC: (parts, total, G, N), the sum over HEADS heads of the group each."""
    chunk, group, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    start, stop = tl.load(starts + chunk), tl.load(stops + chunk)
    steps, k = tl.arange(0, Q), tl.arange(0, BN)
    rows = start + steps
    valid = rows < stop
    here = valid[:, None] & (k < n)[None, :]
    shared, to_shared = (steps * (groups * n))[:, None] + k[None, :], (start * groups + group) * n
    b = tl.load(B + to_shared + shared, mask=here, other=0.0)
    c = tl.load(C + to_shared + shared, mask=here, other=0.0)
    share = heads // groups
    to_b = tl.zeros((Q, BN), dtype=before.dtype.element_ty)
    to_c = tl.zeros((Q, BN), dtype=before.dtype.element_ty)
    for i in range(part * HEADS, tl.minimum(part * HEADS + HEADS, share)):
        head = group * share + i
        delta, total, met = decays(dt, A, resets, rows, valid, head, heads, RESETS)
        end, met_end = at_end(total, steps, Q), at_end(met, steps, Q)
        from_start = tl.where(met == 0, tl.exp(total), 0.0)
        to_end = tl.exp(tl.where(met == met_end, end - total, float("-inf"))) * delta
        base, to_own = (chunk.to(tl.int64) * heads + head) * width, (start * heads + head) * width
        for first in range(0, width, BP):
            p = first + tl.arange(0, BP)
            present = valid[:, None] & (p < width)[None, :]
            own = (steps * (heads * width))[:, None] + p[None, :]
            u = tl.load(x + to_own + own, mask=present, other=0.0)
            lost = tl.load(dy + to_own + own, mask=present, other=0.0)
            inside = (p < width)[:, None] & (k < n)[None, :]

            # Indexed (j, i): what step j gave to the later step i.
            future = steps[:, None] <= steps[None, :]
            if RESETS:
                future = future & (met[:, None] == met[None, :])
            weights = tl.exp(tl.where(future, total[None, :] - total[:, None], float("-inf"))) * delta[:, None]
            weights *= tl.dot(u, tl.trans(lost), input_precision=PRECISION)
            to_b += tl.dot(weights.to(c.dtype), c, input_precision=PRECISION)
            g = tl.load(after + base * n + p[:, None] * n + k[None, :], mask=inside, other=0.0)
            scaled = (u.to(total.dtype) * to_end[:, None]).to(u.dtype)
            to_b += tl.dot(scaled, g.to(u.dtype), input_precision=PRECISION)

            # The same indexed (i, j).
            past = steps[:, None] >= steps[None, :]
            if RESETS:
                past = past & (met[:, None] == met[None, :])
            weights = tl.exp(tl.where(past, total[:, None] - total[None, :], float("-inf"))) * delta[None, :]
            weights *= tl.dot(lost, tl.trans(u), input_precision=PRECISION)
            to_c += tl.dot(weights.to(b.dtype), b, input_precision=PRECISION)
            h = tl.load(before + base * n + p[:, None] * n + k[None, :], mask=inside, other=0.0)
            scaled = (lost.to(total.dtype) * from_start[:, None]).to(lost.dtype)
            to_c += tl.dot(scaled, h.to(lost.dtype), input_precision=PRECISION)
    out = part.to(tl.int64) * total_steps * groups * n + to_shared + shared
    tl.store(dB + out, to_b, mask=here)
    tl.store(dC + out, to_c, mask=here)


def backward(
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Flat tensors, see `registered`: dx, ddt, dA, dB, dC, dD, dh0."""
    dtype = x.dtype
    x, B, C, dy = readable(x, B, C, dy)  # type: ignore[assignment]
    (total, heads, width), (groups, n) = x.shape, B.shape[1:]
    blocks = sizes(x.dtype, width, n)
    starts, stops, _ = cut = chunks(offsets, total, blocks["Q"])
    before, _ = states_of(B, x, dt, A, resets, h0, cut, reverse=False)
    after, dh0 = states_of(C, dy, dt, A, resets, dlast, cut, reverse=True)
    mask = A if resets is None else resets.view(torch.uint8)
    dx, ddt = torch.empty_like(x), torch.empty_like(dt)
    dA, dD = A.new_empty(len(starts), heads), A.new_empty(len(starts), heads, width)
    options = {"RESETS": resets is not None, "PRECISION": "ieee", "num_warps": 8}
    _own[(len(starts), heads)](
        *(x, dt, A, B, C, A if D is None else D, mask, before, after, starts, stops, dy, dx, ddt, dA, dD),
        *(heads, groups, width, n),
        **blocks,
        SKIP=D is not None,
        **options,
    )
    parts = triton.cdiv(heads // groups, HEADS)
    dB, dC = (A.new_empty(parts, total, groups, n) for _ in range(2))
    _shared[(len(starts), groups, parts)](
        *(x, dt, A, B, C, mask, before, after, starts, stops, dy, dB, dC, heads, groups, width, n, total),
        **blocks,
        HEADS=HEADS,
        **options,
    )
    return dx.to(dtype), ddt, dA.sum(0), dB.sum(0).to(dtype), dC.sum(0).to(dtype), dD.sum(0), dh0


def specimens() -> Iterator[Specimen]:
    """Heads of 64 rows and 128 states, float32 and bfloat16, with resets."""
    whole = ("dt", "A", "D", "before", "after", "ddt", "dA", "dD", "dB", "dC")
    integers = ("heads", "groups", "width", "n", "total_steps")
    for data in ("fp32", "bf16"):
        types = {
            **dict.fromkeys(("x", "B", "C", "dy", "dx"), f"*{data}"),
            **dict.fromkeys(whole, "*fp32"),
            "resets": "*u8",
            "starts": "*i64",
            "stops": "*i64",
            **dict.fromkeys(integers, "i32"),
        }
        blocks = sizes(torch.float32 if data == "fp32" else torch.bfloat16, 64, 128)
        for kernel, more in ((_own, {"SKIP": True}), (_shared, {"HEADS": HEADS})):
            yield Specimen(
                kernel=kernel,
                types={name: types[name] for name in kernel.arg_names if name in types},
                constants={**blocks, **more, "RESETS": True, "PRECISION": "ieee"},
                label=f"{data} N=128",
                warps=8,
                aligned=("width", "n"),
            )
