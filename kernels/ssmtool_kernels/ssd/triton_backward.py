"""The adjoint of the scan of Mamba-2 on a GPU.

The states before every tile are computed again and kept, the losses of the states after every tile alike, from the end.
Then tiles are independent: one kernel for what is lost by x, dt, A and D, a program per tile and head; one for B and
again for C, a program per tile, group and part of its heads, whose sum over these heads stays in registers. Transposed
products are computed as such: a product that is cast and transposed goes wrong on Hopper with some compilers.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmtool_kernels.specimen import Specimen
from ssmtool_kernels.ssd.triton_states import at_end, chunks, decays, readable, sizes, states_of

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
    steps = tl.arange(0, Q)
    rows = start + steps
    valid = rows < stop
    delta, total, met = decays(dt, A, resets, rows, valid, head, heads, RESETS)
    end, met_end = at_end(total, steps, Q), at_end(met, steps, Q)
    from_start = tl.where(met == 0, tl.exp(total), 0.0)
    to_end = tl.exp(tl.where(met == met_end, end - total, float("-inf")))
    shared, to_shared = (steps * (groups * n))[:, None], (start * groups + group) * n
    scores = tl.zeros((Q, Q), dtype=total.dtype)
    for above in range(0, n, BN):
        k = above + tl.arange(0, BN)
        here = valid[:, None] & (k < n)[None, :]
        b = tl.load(B + to_shared + shared + k[None, :], mask=here, other=0.0)
        c = tl.load(C + to_shared + shared + k[None, :], mask=here, other=0.0)
        scores += tl.dot(b, tl.trans(c), input_precision=PRECISION)
    # Matrices are indexed (j, i): what step j gave to the later step i.
    future = steps[:, None] <= steps[None, :]
    if RESETS:
        future = future & (met[:, None] == met[None, :])
    weights = tl.exp(tl.where(future, total[None, :] - total[:, None], float("-inf")))
    weights *= scores

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
        wide, wide_lost = u.to(total.dtype), lost.to(total.dtype)
        carried = tl.zeros((Q, BP), dtype=total.dtype)
        beyond = tl.zeros((Q, BP), dtype=total.dtype)
        for above in range(0, n, BN):
            k = above + tl.arange(0, BN)
            here = valid[:, None] & (k < n)[None, :]
            inside = (k < n)[:, None] & (p < width)[None, :]
            h = tl.load(before + base * n + p[None, :] * n + k[:, None], mask=inside, other=0.0)
            g = tl.load(after + base * n + p[None, :] * n + k[:, None], mask=inside, other=0.0)
            kept += tl.sum(tl.sum(h * g, 1), 0)
            c = tl.load(C + to_shared + shared + k[None, :], mask=here, other=0.0)
            carried += tl.dot(c, h.to(c.dtype), input_precision=PRECISION)
            b = tl.load(B + to_shared + shared + k[None, :], mask=here, other=0.0)
            beyond += tl.dot(b, g.to(b.dtype), input_precision=PRECISION)
        came += tl.sum(carried * wide_lost, 1)
        beyond *= to_end[:, None]
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
    other,
    resets,
    states,
    starts,
    stops,
    dy,
    out,
    heads,
    groups,
    width,
    n,
    total_steps,
    Q: tl.constexpr,
    BP: tl.constexpr,
    BN: tl.constexpr,
    HEADS: tl.constexpr,
    FOR_B: tl.constexpr,
    RESETS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """out: (parts, total, G, N), the sum over HEADS heads of the group each. FOR_B: dB from other = C and the losses
    of the states after every tile; else dC from other = B and the states before every tile."""
    chunk, group = tl.program_id(0), tl.program_id(1)
    slices = tl.cdiv(n, BN)
    part = tl.program_id(2) // slices
    start, stop = tl.load(starts + chunk), tl.load(stops + chunk)
    steps, k = tl.arange(0, Q), tl.program_id(2) % slices * BN + tl.arange(0, BN)
    rows = start + steps
    valid = rows < stop
    here = valid[:, None] & (k < n)[None, :]
    shared, to_shared = (steps * (groups * n))[:, None] + k[None, :], (start * groups + group) * n
    share = heads // groups
    found = tl.zeros((Q, BN), dtype=states.dtype.element_ty)
    for i in range(part * HEADS, tl.minimum(part * HEADS + HEADS, share)):
        head = group * share + i
        delta, total, met = decays(dt, A, resets, rows, valid, head, heads, RESETS)
        base, to_own = (chunk.to(tl.int64) * heads + head) * width, (start * heads + head) * width
        for first in range(0, width, BP):
            p = first + tl.arange(0, BP)
            present = valid[:, None] & (p < width)[None, :]
            own = (steps * (heads * width))[:, None] + p[None, :]
            u = tl.load(x + to_own + own, mask=present, other=0.0)
            lost = tl.load(dy + to_own + own, mask=present, other=0.0)
            if FOR_B:  # indexed (j, i): what step j gave to the later step i
                ordered = steps[:, None] <= steps[None, :]
                spans = total[None, :] - total[:, None]
                weights = tl.dot(u, tl.trans(lost), input_precision=PRECISION) * delta[:, None]
                end, met_end = at_end(total, steps, Q), at_end(met, steps, Q)
                scale = tl.exp(tl.where(met == met_end, end - total, float("-inf"))) * delta
                scaled = (u.to(total.dtype) * scale[:, None]).to(u.dtype)
            else:  # indexed (i, j)
                ordered = steps[:, None] >= steps[None, :]
                spans = total[:, None] - total[None, :]
                weights = tl.dot(lost, tl.trans(u), input_precision=PRECISION) * delta[None, :]
                scale = tl.where(met == 0, tl.exp(total), 0.0)
                scaled = (lost.to(total.dtype) * scale[:, None]).to(lost.dtype)
            if RESETS:
                ordered = ordered & (met[:, None] == met[None, :])
            weights *= tl.exp(tl.where(ordered, spans, float("-inf")))
            factor = tl.load(other + to_shared + shared, mask=here, other=0.0)
            found += tl.dot(weights.to(factor.dtype), factor, input_precision=PRECISION)
            inside = (p < width)[:, None] & (k < n)[None, :]
            state = tl.load(states + base * n + p[:, None] * n + k[None, :], mask=inside, other=0.0)
            found += tl.dot(scaled, state.to(scaled.dtype), input_precision=PRECISION)
    tl.store(out + part.to(tl.int64) * total_steps * groups * n + to_shared + shared, found, mask=here)


def tiles(dtype: torch.dtype, width: int, n: int) -> tuple[dict[str, int], dict[str, int]]:
    """Of `_own` and of `_shared`: narrower than in the scan, for more matrices are alive at once."""
    blocks = sizes(dtype, width, n)
    shared = {**blocks, "BP": min(32, blocks["BP"])}
    return {**shared, "BN": min(32, blocks["BN"])}, shared


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
    own, shared = tiles(x.dtype, width, n)
    starts, stops, _ = cut = chunks(offsets, total, own["Q"])
    before, _ = states_of(B, x, dt, A, resets, h0, cut, reverse=False)
    after, dh0 = states_of(C, dy, dt, A, resets, dlast, cut, reverse=True)
    mask = A if resets is None else resets.view(torch.uint8)
    dx, ddt = torch.empty_like(x), torch.empty_like(dt)
    dA, dD = A.new_empty(len(starts), heads), A.new_empty(len(starts), heads, width)
    options = {"RESETS": resets is not None, "PRECISION": "ieee", "num_warps": 8}
    _own[(len(starts), heads)](
        *(x, dt, A, B, C, A if D is None else D, mask, before, after, starts, stops, dy, dx, ddt, dA, dD),
        *(heads, groups, width, n),
        **own,
        SKIP=D is not None,
        **options,
        num_stages=2,
    )
    parts = triton.cdiv(heads // groups, HEADS)
    dB, dC = (A.new_empty(parts, total, groups, n) for _ in range(2))
    grid = (len(starts), groups, parts * triton.cdiv(n, shared["BN"]))
    for out, other, states in ((dB, C, after), (dC, B, before)):
        _shared[grid](
            *(x, dt, A, other, mask, states, starts, stops, dy, out, heads, groups, width, n, total),
            **shared,
            HEADS=HEADS,
            FOR_B=out is dB,
            **options,
            num_stages=2,
        )
    return dx.to(dtype), ddt, dA.sum(0), dB.sum(0).to(dtype), dC.sum(0).to(dtype), dD.sum(0), dh0


def specimens() -> Iterator[Specimen]:
    """Heads of 64 rows and 128 states, float32 and bfloat16, with resets."""
    whole = ("dt", "A", "D", "before", "after", "states", "ddt", "dA", "dD", "out")
    integers = ("heads", "groups", "width", "n", "total_steps")
    for data in ("fp32", "bf16"):
        types = {
            **dict.fromkeys(("x", "B", "C", "dy", "dx", "other"), f"*{data}"),
            **dict.fromkeys(whole, "*fp32"),
            "resets": "*u8",
            "starts": "*i64",
            "stops": "*i64",
            **dict.fromkeys(integers, "i32"),
        }
        own, shared = tiles(torch.float32 if data == "fp32" else torch.bfloat16, 64, 128)
        kinds = [(_own, {**own, "SKIP": True}, 2)]
        kinds += [(_shared, {**shared, "HEADS": HEADS, "FOR_B": side}, 2) for side in (True, False)]
        for kernel, constants, stages in kinds:
            yield Specimen(
                kernel=kernel,
                types={name: types[name] for name in kernel.arg_names if name in types},
                constants={**constants, "RESETS": True, "PRECISION": "ieee"},
                label=f"{data} N=128{', dC' if constants.get('FOR_B') is False else ''}",
                warps=8,
                stages=stages,
                aligned=("width", "n"),
            )
