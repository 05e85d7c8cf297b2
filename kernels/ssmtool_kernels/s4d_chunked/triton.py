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


@triton.jit
def _join(ar1, ai1, hr1, hi1, ar2, ai2, hr2, hi2):
    return (
        ar2 * ar1 - ai2 * ai1,
        ar2 * ai1 + ai2 * ar1,
        ar2 * hr1 - ai2 * hi1 + hr2,
        ar2 * hi1 + ai2 * hr1 + hi2,
    )


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
    steps, modes, rows = tl.arange(0, Q), tl.arange(0, N), tl.arange(0, R)
    inside = modes < n
    real = tl.load(decay + system * 2 * n + modes, mask=inside, other=0.0)
    imag = tl.load(decay + system * 2 * n + n + modes, mask=inside, other=0.0)
    start_r = tl.load(x0 + place * 2 * n + modes, mask=inside, other=0.0)
    start_i = tl.load(x0 + place * 2 * n + n + modes, mask=inside, other=0.0)
    at_into = into + system * Q * 2 * n + steps[:, None] * 2 * n + modes[None, :]
    into_r = tl.load(at_into, mask=inside[None, :], other=0.0)
    into_i = tl.load(at_into + n, mask=inside[None, :], other=0.0)
    if OUTPUTS:
        kernel = tl.load(toeplitz + system * Q * Q + steps[:, None] * Q + steps[None, :])
        at_out = out_of + system * 2 * n * Q + modes[:, None] * Q + steps[None, :]
        out_r = tl.load(at_out, mask=inside[:, None], other=0.0)
        out_i = tl.load(at_out + n * Q, mask=inside[:, None], other=0.0)
    carry_r, carry_i = tl.zeros_like(start_r), tl.zeros_like(start_i)
    base = place * chunks * Q
    first = 0
    while first < chunks:
        order = first + rows
        chunk = chunks - 1 - order if BACKWARDS else order
        before = chunk + 1 if BACKWARDS else chunk - 1
        came = (order > 0) & (order <= chunks)
        at = base + before[:, None] * Q + steps[None, :]
        earlier = tl.load(u + at, mask=came[:, None], other=0.0).to(into.dtype.element_ty)
        xr = tl.dot(earlier, into_r, input_precision=PRECISION)
        xi = tl.dot(earlier, into_i, input_precision=PRECISION)
        xr += tl.where((order == 0)[:, None], start_r[None, :], 0.0)
        xi += tl.where((order == 0)[:, None], start_i[None, :], 0.0)
        ar = tl.broadcast_to(real[None, :], (R, N))
        ai = tl.broadcast_to(imag[None, :], (R, N))
        ar, ai, xr, xi = tl.associative_scan((ar, ai, xr, xi), 0, _join)
        xr += ar * carry_r[None, :] - ai * carry_i[None, :]
        xi += ar * carry_i[None, :] + ai * carry_r[None, :]
        valid = order < chunks
        if OUTPUTS:
            at = base + chunk[:, None] * Q + steps[None, :]
            now = tl.load(u + at, mask=valid[:, None], other=0.0).to(toeplitz.dtype.element_ty)
            out = tl.dot(now, kernel, input_precision=PRECISION)
            out = tl.dot(xr.to(out_of.dtype.element_ty), out_r, out, input_precision=PRECISION)
            out = tl.dot(xi.to(out_of.dtype.element_ty), out_i, out, input_precision=PRECISION)
            tl.store(y + at, out.to(y.dtype.element_ty), mask=valid[:, None])
        if STATES:
            at = states + (place * chunks + chunk[:, None]) * 2 * n + modes[None, :]
            tl.store(at, xr, mask=valid[:, None] & inside[None, :])
            tl.store(at + n, xi, mask=valid[:, None] & inside[None, :])
        final = tl.minimum(chunks - first, R) - 1
        carry_r = tl.sum(tl.where(rows[:, None] == final, xr, 0.0), 0)
        carry_i = tl.sum(tl.where(rows[:, None] == final, xi, 0.0), 0)
        first += R
    # The state before the last chunk is known; what that chunk does to it is left.
    chunk = 0 if BACKWARDS else chunks - 1
    given = tl.load(u + base + chunk * Q + steps).to(into.dtype.element_ty).to(real.dtype)
    into_r, into_i = into_r.to(real.dtype), into_i.to(real.dtype)
    end_r = real * carry_r - imag * carry_i + tl.sum(given[:, None] * into_r, 0)
    end_i = real * carry_i + imag * carry_r + tl.sum(given[:, None] * into_i, 0)
    tl.store(last + place * 2 * n + modes, end_r, mask=inside)
    tl.store(last + place * 2 * n + n + modes, end_i, mask=inside)


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
        N=max(16, triton.next_power_of_2(n)),
        R=rows(chunks, T.dtype),
        OUTPUTS=outputs,
        STATES=states,
        BACKWARDS=backwards,
        PRECISION=precision(T.dtype),
        num_warps=4,
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
                constants={
                    **{"n": 32, "Q": 64, "N": 32, "R": rows(256, dtype), "OUTPUTS": True},
                    **{"STATES": backwards, "BACKWARDS": backwards, "PRECISION": precision(dtype)},
                },
                label=f"{name} n=32 {'adjoint' if backwards else 'outputs'}",
                aligned=("systems", "chunks"),
            )
