"""Chunks of the scan of Mamba-2 on a GPU and the states between them: what a chunk adds, and what it begins with."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmtool_kernels.backends import interpreting

ELEMENTS = 1024  # of the states that one program passes along


@triton.jit
def decays(dt, A, resets, rows, valid, head, heads, RESETS: tl.constexpr):
    """Step sizes of a tile (Q,), cumulative log decay, cumulative number of resets; steps beyond the end do nothing."""
    delta = tl.load(dt + rows * heads + head, mask=valid, other=0.0)
    total = tl.cumsum(delta * tl.load(A + head), 0)
    if RESETS:
        met = tl.cumsum(tl.load(resets + rows, mask=valid, other=0).to(tl.int32), 0)
    else:
        met = tl.zeros_like(delta).to(tl.int32)
    return delta, total, met


@triton.jit
def at_end(values, steps, Q: tl.constexpr):
    """The last of (Q,)."""
    return tl.sum(tl.where(steps == Q - 1, values, tl.zeros_like(values)), 0)


@triton.jit
def state_of_chunk(
    left,
    right,
    dt,
    A,
    resets,
    starts,
    stops,
    states,
    through,
    heads,
    groups,
    width,
    n,
    Q: tl.constexpr,
    BP: tl.constexpr,
    BN: tl.constexpr,
    RESETS: tl.constexpr,
    REVERSE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """What a chunk adds to the state at its end, from left = B and right = x; or, REVERSE, what a chunk of one tile
    adds to the loss of the state at its start, from left = C and right = dy. through: the chunk's decay."""
    chunk, head, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    slices = tl.cdiv(n, BN)
    group = head // (heads // groups)
    start, stop = tl.load(starts + chunk), tl.load(stops + chunk)
    steps, p = tl.arange(0, Q), block // slices * BP + tl.arange(0, BP)
    k = block % slices * BN + tl.arange(0, BN)
    h = tl.zeros((BN, BP), dtype=states.dtype.element_ty)
    kept = tl.load(A + head) * 0 + 1.0
    for first in range(start, stop, Q):
        rows = first + steps
        valid = rows < stop
        delta, total, met = decays(dt, A, resets, rows, valid, head, heads, RESETS)
        end, met_end = at_end(total, steps, Q), at_end(met, steps, Q)
        shared = (steps * (groups * n))[:, None] + k[None, :]
        a = tl.load(left + (first * groups + group) * n + shared, mask=valid[:, None] & (k < n)[None, :], other=0.0)
        own = (steps * (heads * width))[:, None] + p[None, :]
        b = tl.load(right + (first * heads + head) * width + own, mask=valid[:, None] & (p < width)[None, :], other=0.0)
        if REVERSE:
            weight = tl.where(met == 0, tl.exp(total), 0.0)
        else:
            weight = tl.exp(tl.where(met == met_end, end - total, float("-inf"))) * delta
        keep = tl.where(met_end == 0, tl.exp(end), 0.0)
        weighted = (b.to(weight.dtype) * weight[:, None]).to(b.dtype)
        h = h * keep + tl.dot(tl.trans(a), weighted, input_precision=PRECISION)
        kept *= keep
    at = (chunk.to(tl.int64) * heads + head) * width * n
    tl.store(states + at + p[None, :] * n + k[:, None], h, mask=(k < n)[:, None] & (p < width)[None, :])
    if block == 0:
        tl.store(through + chunk * heads + head, kept)


@triton.jit
def _pass(states, through, firsts, initial, last, heads, size, ELEMENTS: tl.constexpr, REVERSE: tl.constexpr):
    """states: what every chunk adds becomes the state before it (REVERSE: the loss of the state after it)."""
    s, head, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    columns = block * ELEMENTS + tl.arange(0, ELEMENTS)
    inside = columns < size
    begin, count = tl.load(firsts + s), tl.load(firsts + s + 1) - tl.load(firsts + s)
    carried = tl.load(initial + (s.to(tl.int64) * heads + head) * size + columns, mask=inside, other=0.0)
    for i in range(count):
        chunk = begin + (count - 1 - i if REVERSE else i)
        here = states + (chunk * heads + head) * size + columns
        added = tl.load(here, mask=inside, other=0.0)
        tl.store(here, carried, mask=inside)
        keep = tl.load(through + chunk * heads + head)
        carried = tl.where(keep == 0.0, 0.0, carried * keep) + added
    tl.store(last + (s.to(tl.int64) * heads + head) * size + columns, carried, mask=inside)


def chunks(offsets: Tensor, total: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sequences cut into chunks of at most `length` steps, without asking the device for numbers.

    Returns:
        starts, stops (m,) on the flat time axis, empty chunks at the end among them, and the first chunk of every
        sequence (k + 1,).
    """
    counts = (offsets.diff() + (length - 1)) // length
    ends = counts.cumsum(0)
    firsts = torch.cat([ends.new_zeros(1), ends])
    numbers = torch.arange(total // length + len(counts), device=offsets.device)
    sequence = torch.searchsorted(ends, numbers, right=True).clamp_max(len(counts) - 1)
    stops = offsets[1:][sequence]
    starts = torch.minimum(offsets[sequence] + (numbers - firsts[sequence]) * length, stops)
    return starts, torch.minimum(starts + length, stops), firsts


def half(dtype: torch.dtype) -> bool:
    """Whether products run on tensor cores."""
    return dtype in (torch.float16, torch.bfloat16)


def sizes(dtype: torch.dtype, width: int, n: int) -> dict[str, int]:
    """Tiles: steps, rows, and states in a slice. Without tensor cores (float32, float64) factors are held in registers
    along the whole of a sum, and sums are short."""
    steps, rows, states = (64, 64, 64) if half(dtype) else (32, 32, 32)
    return {
        "Q": steps,
        "BP": min(rows, max(16, triton.next_power_of_2(width))),
        "BN": min(states, max(16, triton.next_power_of_2(n))),
    }


def states_of(
    left: Tensor,
    right: Tensor,
    dt: Tensor,
    A: Tensor,
    resets: Tensor | None,
    initial: Tensor,
    cut: tuple[Tensor, Tensor, Tensor],
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """States before every chunk (m, H, P, N) and after the last; or their losses after every chunk and before the
    first."""
    starts, stops, firsts = cut
    (heads, width), (groups, n) = right.shape[1:], left.shape[1:]
    blocks = sizes(right.dtype, width, n)
    states = initial.new_empty(len(starts), heads, width, n)
    through, last = A.new_empty(len(starts), heads), torch.empty_like(initial)
    grid = (len(starts), heads, triton.cdiv(width, blocks["BP"]) * triton.cdiv(n, blocks["BN"]))
    state_of_chunk[grid](
        *(left, right, dt, A, A if resets is None else resets.view(torch.uint8), starts, stops, states, through),
        *(heads, groups, width, n),
        **blocks,
        RESETS=resets is not None,
        REVERSE=reverse,
        PRECISION="ieee",
        num_warps=4,
    )
    _pass[(len(firsts) - 1, heads, triton.cdiv(width * n, ELEMENTS))](
        *(states, through, firsts, initial, last, heads, width * n), ELEMENTS=ELEMENTS, REVERSE=reverse, num_warps=4
    )
    return states, last


def readable(*tensors: Tensor | None) -> list[Tensor | None]:
    """The interpreter computes bfloat16 wrongly: there, half precision becomes float32."""
    halves = (torch.float16, torch.bfloat16)
    return [t.float() if t is not None and interpreting() and t.dtype in halves else t for t in tensors]
