"""The chunked diagonal scan on a GPU: one program per system and sequence, a tile of chunks at a time.

The matrices of the system stay on chip; of a tile's chunks, rows of a matrix of inputs, all products are taken at once,
and only the short recurrence from row to row is a scan. Inputs are read (a second time, for the rows shifted by one
chunk, from cache), outputs written, and the state is carried in registers.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmtool_kernels.specimen import Specimen

WARPS = 8  # the matrices are spread over their registers


@triton.jit
def _join(ar1, ai1, hr1, hi1, ar2, ai2, hr2, hi2):
    return (
        ar2 * ar1 - ai2 * ai1,
        ar2 * ai1 + ai2 * ar1,
        ar2 * hr1 - ai2 * hi1 + hr2,
        ar2 * hi1 + ai2 * hr1 + hi2,
    )


@triton.jit
def _inputs(u, base, order, chunks, steps, Q: tl.constexpr, BACKWARDS: tl.constexpr):
    """Rows of inputs (R, Q): of the chunks at these places in the order of the scan, 0 outside of it."""
    chunk = chunks - 1 - order if BACKWARDS else order
    there = (order >= 0) & (order < chunks)
    return tl.load(u + base + chunk[:, None] * Q + steps[None, :], mask=there[:, None], other=0.0)


@triton.jit
def _scan(
    u,
    toeplitz,
    into,
    out_of,
    decay,
    x0,
    y,
    last,
    states,
    systems,
    chunks,
    n: tl.constexpr,
    Q: tl.constexpr,
    N: tl.constexpr,
    R: tl.constexpr,
    OUTPUTS: tl.constexpr,
    STATES: tl.constexpr,
    BACKWARDS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Row i of a tile is the i-th chunk in the order of the scan, and its state the one before that chunk."""
    system, sequence = tl.program_id(0).to(tl.int64), tl.program_id(1)
    place = sequence * systems + system
    steps, rows = tl.arange(0, Q), tl.arange(0, R)
    reals = tl.arange(0, 2 * N)  # of the state: pairs, one per mode
    inside = reals < 2 * n
    power = tl.load(decay + system * 2 * n + reals, mask=inside, other=0.0)
    real, imag = tl.split(tl.reshape(power, (N, 2)))
    start = tl.load(x0 + place * 2 * n + reals, mask=inside, other=0.0)
    at_into = into + system * Q * 2 * n + steps[:, None] * 2 * n + reals[None, :]
    drive = tl.load(at_into, mask=inside[None, :], other=0.0)
    if OUTPUTS:
        kernel = tl.load(toeplitz + system * Q * Q + steps[:, None] * Q + steps[None, :])
        at_out = out_of + system * 2 * n * Q + reals[:, None] * Q + steps[None, :]
        readout = tl.load(at_out, mask=inside[:, None], other=0.0)
    carry = tl.zeros_like(start)
    base = place * chunks * Q
    earlier = _inputs(u, base, rows - 1, chunks, steps, Q, BACKWARDS)
    now = _inputs(u, base, rows, chunks, steps, Q, BACKWARDS) if OUTPUTS else earlier
    first = 0
    while first < chunks:
        # The next tile is on its way while this one is worked on.
        order = first + rows
        next_earlier = _inputs(u, base, order + R - 1, chunks, steps, Q, BACKWARDS)
        next_now = _inputs(u, base, order + R, chunks, steps, Q, BACKWARDS) if OUTPUTS else next_earlier
        driven = tl.dot(earlier.to(into.dtype.element_ty), drive, input_precision=PRECISION)
        driven += tl.where((order == 0)[:, None], start[None, :], 0.0)
        hr, hi = tl.split(tl.reshape(driven, (R, N, 2)))
        ar = tl.broadcast_to(real[None, :], (R, N))
        ai = tl.broadcast_to(imag[None, :], (R, N))
        ar, ai, hr, hi = tl.associative_scan((ar, ai, hr, hi), 0, _join)
        cr, ci = tl.split(tl.reshape(carry, (N, 2)))
        hr += ar * cr[None, :] - ai * ci[None, :]
        hi += ar * ci[None, :] + ai * cr[None, :]
        state = tl.reshape(tl.join(hr, hi), (R, 2 * N))
        chunk = chunks - 1 - order if BACKWARDS else order
        valid = order < chunks
        if OUTPUTS:
            out = tl.dot(now.to(toeplitz.dtype.element_ty), kernel, input_precision=PRECISION)
            out = tl.dot(
                state.to(out_of.dtype.element_ty), readout, out, input_precision=PRECISION, out_dtype=out.dtype
            )
            at = base + chunk[:, None] * Q + steps[None, :]
            tl.store(y + at, out.to(y.dtype.element_ty), mask=valid[:, None])
        if STATES:
            at = states + (place * chunks + chunk[:, None]) * 2 * n + reals[None, :]
            tl.store(at, state, mask=valid[:, None] & inside[None, :])
        final = tl.minimum(chunks - first, R) - 1
        carry = tl.sum(tl.where(rows[:, None] == final, state, 0.0), 0)
        earlier, now = next_earlier, next_now
        first += R
    # The state before the last chunk is known; what that chunk does to it is left.
    chunk = 0 if BACKWARDS else chunks - 1
    given = tl.load(u + base + chunk * Q + steps).to(into.dtype.element_ty).to(start.dtype)
    driven = given[:, None] * tl.load(at_into, mask=inside[None, :], other=0.0).to(start.dtype)
    er, ei = tl.split(tl.reshape(tl.sum(driven, 0), (N, 2)))
    cr, ci = tl.split(tl.reshape(carry, (N, 2)))
    end = tl.join(real * cr - imag * ci + er, real * ci + imag * cr + ei)
    tl.store(last + place * 2 * n + reals, tl.reshape(end, (2 * N,)), mask=inside)


def run(
    u: Tensor,
    T: Tensor,
    V: Tensor,
    W: Tensor,
    decay: Tensor,
    x0: Tensor,
    *,
    outputs: bool = True,
    states: bool = False,
    backwards: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """y (b, H, M Q), the last state (b, H, 2n) and the states before every chunk (b, H, M, 2n), in the order of time.

    Arguments as in `s4d_chunked.op._scan`, contiguous. backwards: chunks from the last to the first.
    """
    batch, systems, length = u.shape
    size, n = T.shape[1], decay.shape[1] // 2
    chunks = length // size
    y = torch.empty_like(u) if outputs else u
    kept = x0.new_empty((batch, systems, chunks, 2 * n)) if states else x0
    last = torch.empty_like(x0)
    _scan[(systems, batch)](
        *(u, T, V, W, decay, x0, y, last, kept, systems, chunks),
        n=n,
        Q=size,
        N=max(8, triton.next_power_of_2(n)),
        R=rows(chunks, T.dtype),
        OUTPUTS=outputs,
        STATES=states,
        BACKWARDS=backwards,
        PRECISION=precision(T.dtype),
        num_warps=WARPS,
    )
    return y, last, kept


def rows(chunks: int, dtype: torch.dtype) -> int:
    """Chunks of a tile."""
    return 16 if chunks <= 16 or dtype != torch.bfloat16 else 32


def precision(dtype: torch.dtype) -> str:
    """Products of float32 are taken in three parts of tf32, which keeps its accuracy."""
    return "tf32x3" if dtype == torch.float32 else "ieee"


def specimens() -> Iterator[Specimen]:
    """32 modes in float32 and bfloat16: outputs, and states as the adjoint takes them."""
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        for backwards in (False, True):
            yield Specimen(
                kernel=_scan,
                types={
                    **dict.fromkeys(("u", "toeplitz", "into", "out_of", "y"), f"*{name}"),
                    **dict.fromkeys(("decay", "x0", "last", "states"), "*fp32"),
                    **dict.fromkeys(("systems", "chunks"), "i32"),
                },
                constants=dict.fromkeys(("n", "N"), 32)
                | dict.fromkeys(("STATES", "BACKWARDS"), backwards)
                | {"Q": 64, "R": rows(256, dtype), "OUTPUTS": True, "PRECISION": precision(dtype)},
                warps=WARPS,
                label=f"{name} n=32 {'adjoint' if backwards else 'outputs'}",
                aligned=("systems", "chunks"),
            )
