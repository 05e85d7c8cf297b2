"""Pieces of the Triton kernels for diagonal systems of one input and one output; see `triton.py`."""

from __future__ import annotations

import triton
import triton.language as tl

Q = 16  # steps of a chunk; products of matrices need 16
CHUNKS = 16


@triton.jit
def join(ar, ai, p, q, br, bi, r, s):
    return br * ar - bi * ai, br * ai + bi * ar, br * p - bi * q + r, br * q + bi * p + s


@triton.jit
def product(a, b):
    return tl.dot(a, b, input_precision="ieee", out_dtype=b.dtype)


@triton.jit
def table_of(base, system, rows, modes, height, N: tl.constexpr):
    """Rows (T, N) of a table (S, 2, height, N), real and imaginary; rows beyond it, either way, are zero."""
    at = base + (system * 2 * height + rows[:, None]) * N + modes[None, :]
    inside = ((rows >= 0) & (rows < height))[:, None]
    return tl.load(at, mask=inside, other=0.0), tl.load(at + height * N, mask=inside, other=0.0)


@triton.jit
def chunk_resets(resets, time, valid):
    """Resets up to and with each step of its chunk (rows of `time`), and their number in the chunk (rows, 1)."""
    fresh = tl.load(resets + time, mask=valid, other=0).to(tl.int32)
    return tl.cumsum(fresh, 1), tl.sum(fresh, 1)[:, None]


@triton.jit
def states_before(
    u, resets, start, stop, first, order, steps, wr, wi, ar, ai, p0, q0, xr, xi, Q: tl.constexpr, RESETS: tl.constexpr
):
    """States before the chunks of a tile. p0, q0: (1, N), before the chunk before the tile; xr, xi: at the start."""
    time = first + (order[:, None] - 1) * Q + steps[None, :]
    valid = (time >= start) & (time < stop)
    drive = tl.load(u + time, mask=valid, other=0.0)
    alive = (order >= 0)[:, None]
    if RESETS:
        seen, number = chunk_resets(resets, time, valid)
        drive = tl.where(seen == number, drive, 0.0)
        alive = number == 0
    p, q = product(drive, wr), product(drive, wi)
    decay_r, decay_i = tl.where(alive, ar, 0.0), tl.where(alive, ai, 0.0)
    top = (order == 0)[:, None]
    carried_r, carried_i = decay_r * p0 - decay_i * q0, decay_r * q0 + decay_i * p0
    if first == start:
        p, q = tl.where(top, xr, p), tl.where(top, xi, q)
    else:
        p, q = tl.where(top, p + carried_r, p), tl.where(top, q + carried_i, q)
    decay_r, decay_i, p, q = tl.associative_scan((decay_r, decay_i, p, q), 0, join)
    return p, q


@triton.jit
def row_of(tile, order, row):
    """Row `row` of a tile (R, N), as (1, N)."""
    return tl.sum(tl.where((order == row)[:, None], tile, 0.0), 0)[None, :]


@triton.jit
def rest_of(resets, stop, number, steps, RESETS: tl.constexpr):
    """Which of the last steps, counted from the end, reach the last state, and whether the state before them does."""
    reach = steps < number
    alive = number >= 0
    if RESETS:
        fresh = tl.load(resets + stop - 1 - steps, mask=reach, other=0).to(tl.int32)
        reach = reach & (tl.cumsum(fresh, 0) - fresh == 0)
        alive = tl.sum(fresh, 0) == 0
    return reach, alive


@triton.jit
def toeplitz(kernel, system, steps, Q: tl.constexpr, TRANSPOSED: tl.constexpr):
    lag = steps[None, :] - steps[:, None]
    if TRANSPOSED:
        lag = -lag
    return tl.load(kernel + system * Q + lag, mask=lag >= 0, other=0.0)


@triton.jit
def power_of(power, system, exponent, modes, Q: tl.constexpr, N: tl.constexpr):
    """lam^exponent, (1, N) real and imaginary."""
    at = power + (system * 2 * (Q + 1) + exponent) * N + modes[None, :]
    return tl.load(at), tl.load(at + (Q + 1) * N)
