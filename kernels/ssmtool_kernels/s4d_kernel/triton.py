"""The kernel of a diagonal system on a GPU: both tables of powers are built in registers, their product written once.

A phase is a fixed-point fraction of a turn in 64 bits: its product with any time index wraps modulo one turn exactly,
so that range reduction costs one integer multiplication and loses nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmtool_kernels.specimen import Specimen

FORWARD = {"Q": 128, "R": 32}  # steps of the inner table; rows of the outer table, per tile
BACKWARD = {"Q": 32, "R": 32, "TILES": 8}  # the inner table stays in every warp's registers: it has to be small


@triton.jit
def _powers(rate, phase, k, DOUBLE: tl.constexpr):
    """exp(rate k + 2 pi i phase k): rate real, phase int64, k int64, broadcast against each other."""
    size = tl.exp(rate * k.to(rate.dtype))
    bits = phase * k
    if DOUBLE:
        angle = bits.to(tl.float64) * (2 * 3.141592653589793 / 18446744073709551616.0)
        return size * tl.cos(angle), size * tl.sin(angle)
    high = (bits >> 32).to(tl.int32)
    quarter = (high + (1 << 29)) >> 30  # the nearest quarter turn; overflow wraps as it should
    rest = high - (quarter << 30)
    x = rest.to(tl.float32) * (2 * 3.141592653589793 / 4294967296.0)
    z = x * x  # |x| <= pi / 4: minimax polynomials of Cephes' sinf and cosf
    sine = x + x * z * (-1.6666654611e-1 + z * (8.3321608736e-3 - z * 1.9515295891e-4))
    cosine = 1.0 - 0.5 * z + z * z * (4.166664568298827e-2 + z * (-1.388731625493765e-3 + z * 2.443315711809948e-5))
    odd = (quarter & 1) == 1
    re = tl.where(odd, sine, cosine)
    im = tl.where(odd, cosine, sine)
    re = tl.where(((quarter + 1) & 2) != 0, -re, re)
    im = tl.where((quarter & 2) != 0, -im, im)
    return size * re, size * im


@triton.jit
def _forward(
    rate,
    phase,
    cr,
    ci,
    out,
    length,
    n: tl.constexpr,
    Q: tl.constexpr,
    R: tl.constexpr,
    N: tl.constexpr,
    DOUBLE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """out[q Q + r] = sum over modes of Re(c lam^(q Q)) Re lam^r - Im(c lam^(q Q)) Im lam^r, R rows q of one system."""
    system, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    rows = tile * R + tl.arange(0, R)
    steps = tl.arange(0, Q)
    total = tl.zeros((R, Q), dtype=tl.float64 if DOUBLE else tl.float32)
    for first in tl.static_range(0, n, N):
        modes = first + tl.arange(0, N)
        inside = modes < n
        at = system * n + modes
        decay = tl.load(rate + at, mask=inside, other=0.0)
        turn = tl.load(phase + at, mask=inside, other=0)
        wr = tl.load(cr + at, mask=inside, other=0.0)[None, :]
        wi = tl.load(ci + at, mask=inside, other=0.0)[None, :]
        outer_r, outer_i = _powers(decay[None, :], turn[None, :], (rows * Q).to(tl.int64)[:, None], DOUBLE)
        inner_r, inner_i = _powers(decay[:, None], turn[:, None], steps.to(tl.int64)[None, :], DOUBLE)
        total = tl.dot(wr * outer_r - wi * outer_i, inner_r, total, input_precision=PRECISION, out_dtype=total.dtype)
        total = tl.dot(-(wr * outer_i + wi * outer_r), inner_i, total, input_precision=PRECISION, out_dtype=total.dtype)
    time = rows[:, None] * Q + steps[None, :]
    tl.store(out + system * length + time, total, mask=time < length)


@triton.jit
def _backward(
    rate,
    phase,
    lost,
    moments,
    length,
    systems,
    n: tl.constexpr,
    Q: tl.constexpr,
    R: tl.constexpr,
    N: tl.constexpr,
    TILES: tl.constexpr,
    DOUBLE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """moments[segment] = real and imaginary parts of sum lost[l] lam^l and of sum l lost[l] lam^l over its time."""
    system, block, segment = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    modes = block * N + tl.arange(0, N)
    inside = modes < n
    decay = tl.load(rate + system * n + modes, mask=inside, other=0.0)[None, :]
    turn = tl.load(phase + system * n + modes, mask=inside, other=0)[None, :]
    steps = tl.arange(0, Q)
    inner_r, inner_i = _powers(decay, turn, steps.to(tl.int64)[:, None], DOUBLE)
    zeroth_r = tl.zeros((N,), dtype=tl.float64 if DOUBLE else tl.float32)
    zeroth_i, first_r, first_i = zeroth_r, zeroth_r, zeroth_r
    for tile in range(TILES):
        rows = (segment * TILES + tile) * R + tl.arange(0, R)
        time = rows[:, None] * Q + steps[None, :]
        g = tl.load(lost + system * length + time, mask=time < length, other=0.0)
        outer_r, outer_i = _powers(decay, turn, (rows * Q).to(tl.int64)[:, None], DOUBLE)
        r = tl.dot(g, inner_r, input_precision=PRECISION)
        i = tl.dot(g, inner_i, input_precision=PRECISION)
        zeroth_r += tl.sum(outer_r * r - outer_i * i, 0)
        zeroth_i += tl.sum(outer_r * i + outer_i * r, 0)
        start = (rows * Q)[:, None].to(decay.dtype)
        g = g * steps[None, :]
        r = start * r + tl.dot(g, inner_r, input_precision=PRECISION)
        i = start * i + tl.dot(g, inner_i, input_precision=PRECISION)
        first_r += tl.sum(outer_r * r - outer_i * i, 0)
        first_i += tl.sum(outer_r * i + outer_i * r, 0)
    at = moments + segment.to(tl.int64) * 4 * systems * n + system * n + modes
    plane = systems * n
    tl.store(at, zeroth_r, mask=inside)
    tl.store(at + plane, zeroth_i, mask=inside)
    tl.store(at + 2 * plane, first_r, mask=inside)
    tl.store(at + 3 * plane, first_i, mask=inside)


def _polar(a: Tensor) -> tuple[Tensor, Tensor]:
    """Rates and phases of logarithms: the imaginary part as a fraction of a turn, times 2^64, modulo 2^64."""
    turns = a.imag.double() / (2 * math.pi)
    turns = turns - turns.round()
    return a.real.contiguous(), (turns * 2.0**62).round().to(torch.int64) << 2


def _options(a: Tensor) -> dict[str, object]:
    double = a.dtype == torch.complex128
    return {"n": a.shape[1], "N": 16, "DOUBLE": double, "PRECISION": "ieee" if double else "tf32x3"}


def forward(a: Tensor, c: Tensor, length: int) -> Tensor:
    """K (H, length) of contiguous a, c (H, n)."""
    out = torch.empty((a.shape[0], length), dtype=a.real.dtype, device=a.device)
    rate, phase = _polar(a)
    grid = (a.shape[0], triton.cdiv(length, FORWARD["Q"] * FORWARD["R"]))
    weights = c.real.contiguous(), c.imag.contiguous()
    _forward[grid](rate, phase, *weights, out, length, num_warps=4, **FORWARD, **_options(a))
    return out


def backward(a: Tensor, lost: Tensor) -> tuple[Tensor, Tensor]:
    """sum_l lost[l] conj(lam^l) and sum_l l lost[l] conj(lam^l), (H, n) complex."""
    systems, n = a.shape
    length = lost.shape[1]
    segments = triton.cdiv(length, BACKWARD["Q"] * BACKWARD["R"] * BACKWARD["TILES"])
    moments = torch.empty((segments, 4, systems, n), dtype=lost.dtype, device=a.device)
    rate, phase = _polar(a)
    grid = (systems, triton.cdiv(n, 16), segments)
    _backward[grid](rate, phase, lost, moments, length, systems, num_warps=4, **BACKWARD, **_options(a))
    whole = moments.sum(0)
    return torch.complex(whole[0], -whole[1]), torch.complex(whole[2], -whole[3])


def specimens() -> Iterator[Specimen]:
    """float32, 32 modes."""
    shared = {"n": 32, "N": 16, "DOUBLE": False, "PRECISION": "tf32x3"}
    inputs = {"rate": "*fp32", "phase": "*i64"}
    yield Specimen(
        kernel=_forward,
        types={**inputs, "cr": "*fp32", "ci": "*fp32", "out": "*fp32", "length": "i32"},
        constants={**shared, **FORWARD},
        label="fp32 n=32",
        aligned=("length",),
    )
    yield Specimen(
        kernel=_backward,
        types={**inputs, "lost": "*fp32", "moments": "*fp32", "length": "i32", "systems": "i32"},
        constants={**shared, **BACKWARD},
        label="fp32 n=32",
        aligned=("length", "systems"),
    )
