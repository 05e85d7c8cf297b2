"""Hankel singular values on a GPU: one program per system, in float64.

The steps are those of `native.c`. Vectors over the poles stay in registers; the matrix of a system lies in global
memory that its program alone uses, small enough for the second-level cache, and columns are read in tiles. There is no
order of rows to keep: a pole that was eliminated has rows of exact zeros.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmtool_kernels.specimen import Specimen

SWEEPS = tl.constexpr(30)  # at most; it takes less than ten
FIELDS = tl.constexpr(13)  # of the table of poles
PROGRAMS = 6  # on each processor of the GPU, one after another through the systems: their matrices stay in its cache


@triton.jit
def _sine_cosine(y):
    """sin y and cos y, |y| < 1e6, also next to their zeros to a few units in the last place (`include/circle.h`)."""
    k = tl.floor(y * 6.36619772367581382433e-01 + 0.5)
    r = y - k * 1.57079632673412561417e00
    r -= k * 6.07710050630396597660e-11
    r -= k * 2.02226624871116645580e-21
    r -= k * 8.47842766036889956997e-32
    z = r * r
    s = z * 1.58969099521155010221e-10 - 2.50507602534068634195e-08
    s = s * z + 2.75573137070700676789e-06
    s = s * z - 1.98412698298579493134e-04
    s = s * z + 8.33333333332248946124e-03
    s = s * z - 1.66666666666666324348e-01
    s = r + r * z * s
    c = 2.08757232129817482790e-09 - z * 1.13596475577881948265e-11
    c = c * z - 2.75573143513906633035e-07
    c = c * z + 2.48015872894767294178e-05
    c = c * z - 1.38888888888741095749e-03
    c = c * z + 4.16666666666666019037e-02
    c = 1.0 - 0.5 * z + z * z * c
    quarter = k.to(tl.int64)
    odd = (quarter & 1) != 0
    sine, cosine = tl.where(odd, c, s), tl.where(odd, s, c)
    return tl.where((quarter & 2) != 0, -sine, sine), tl.where(((quarter + 1) & 2) != 0, -cosine, cosine)


@triton.jit
def _expm1_below(y):
    """exp(y) - 1 for y <= 0."""
    y = tl.maximum(y, -708.0)
    k = tl.floor(y * 1.44269504088896338700e00 + 0.5)
    r = y - k * 6.93147180369123816490e-01
    r -= k * 1.90821492927058770002e-10
    p = r * 1.6059043836821613e-10 + 2.0876756987868100e-09
    p = p * r + 2.5052108385441720e-08
    p = p * r + 2.7557319223985893e-07
    p = p * r + 2.7557319223985890e-06
    p = p * r + 2.4801587301587302e-05
    p = p * r + 1.9841269841269841e-04
    p = p * r + 1.3888888888888889e-03
    p = p * r + 8.3333333333333332e-03
    p = p * r + 4.1666666666666664e-02
    p = p * r + 1.6666666666666666e-01
    p = p * r + 0.5
    p = r + r * r * p
    scale = ((k.to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)
    return scale * p + (scale - 1.0)


@triton.jit
def _store_column(X, size, column, re, im, N: tl.constexpr):
    """A column of L, divided by its largest entry, which goes into `size`."""
    slots = tl.arange(0, N)
    largest = tl.maximum(tl.max(tl.abs(re), 0), tl.max(tl.abs(im), 0))
    divisor = tl.where(largest > 0, largest, 1.0)
    tl.store(X + column * 2 * N + slots, re / divisor)
    tl.store(X + column * 2 * N + N + slots, im / divisor)
    tl.store(size + column, largest)


@triton.jit
def _factorise(table, X, size, N: tl.constexpr):
    """Columns of the Kautz factor in the order of their pivots; a real pole leaves its second column 0.

    `table` holds rows of N: log modulus, expm1 of it, modulus, half the angle, its cosine and sine squared, cosine and
    sine of the angle, 1 - |lambda|^2, coefficient (re, im), sign, whether real. Formulas: ssmtool/lti/kautz.py.
    """
    slots = tl.arange(0, N)
    x, em, modulus = tl.load(table + slots), tl.load(table + N + slots), tl.load(table + 2 * N + slots)
    half, cosine2, sine2 = (
        tl.load(table + 3 * N + slots),
        tl.load(table + 4 * N + slots),
        tl.load(table + 5 * N + slots),
    )
    cosine, sine = tl.load(table + 6 * N + slots), tl.load(table + 7 * N + slots)
    weight = tl.load(table + 8 * N + slots)
    gr, gi = tl.load(table + 9 * N + slots), tl.load(table + 10 * N + slots)
    pair = tl.load(table + 12 * N + slots) == 0
    lr, li = modulus * cosine, modulus * sine
    used = slots < 0
    for step in range(N):
        j = tl.argmax(tl.where(used, -1.0, (gr * gr + gi * gi) / weight), 0)
        used = used | (slots == j)
        xj, emj, mj = tl.load(table + j), tl.load(table + N + j), tl.load(table + 2 * N + j)
        halfj, cj2, sj2 = tl.load(table + 3 * N + j), tl.load(table + 4 * N + j), tl.load(table + 5 * N + j)
        right = tl.load(table + 6 * N + j) >= 0
        wj = tl.load(table + 8 * N + j)
        single = tl.load(table + 12 * N + j) != 0
        # Differences n and 1 - products d of poles, up to unit factors: p cos + i q sin and e cos + i f sin.
        gap = x - xj
        below = _expm1_below(-tl.abs(gap))
        top = tl.maximum(modulus, mj)
        p, q = tl.where(gap > 0, -top * below, top * below), top * (2.0 + below)
        e = em + emj * (1.0 + em)
        f = 2.0 + e
        s, c = _sine_cosine(half - halfj)
        ur, ui = c, -s
        nr, ni, dr, di = p * c, q * s, e * c, f * s
        s, c = _sine_cosine(half + halfj)
        n2r, n2i = tl.where(single, 1.0, p * c), tl.where(single, 0.0, q * s)
        d2r, d2i = tl.where(single, 1.0, e * c), tl.where(single, 0.0, f * s)
        nr, ni = nr * n2r - ni * n2i, nr * n2i + ni * n2r
        dr, di = dr * d2r - di * d2i, dr * d2i + di * d2r
        inverse = 1.0 / (dr * dr + di * di)
        vr, vi = dr * inverse, -di * inverse
        wr, wi = gr * vr - gi * vi, gr * vi + gi * vr
        tr, ti = tl.where(single, ur, cosine), tl.where(single, ui, -sine)
        hr, hi = wr * tr - wi * ti, wr * ti + wi * tr
        # 1 - beta lambda from 1 -+ lambda and 1 -+ beta, whichever do not cancel.
        minus = (emj * emj + 4.0 * mj * sj2) / (1.0 + mj * mj)
        plus = (emj * emj + 4.0 * mj * cj2) / (1.0 + mj * mj)
        factor = tl.where(right, minus, -plus)
        away = tl.where(right, 2.0 * sine2 - em * cosine, 2.0 * modulus * cosine2 - em)
        fr, fi = away + factor * lr, tl.where(right, -li, li) + factor * li
        gain = tl.sqrt(wj * (1.0 + mj * mj))
        lone = -tl.sqrt(wj)
        re = tl.where(single, lone * hr, gain * (hr * fr - hi * fi))
        im = tl.where(single, lone * hi, gain * (hr * fi + hi * fr))
        _store_column(X, size, 2 * step, re, tl.where(pair, im, 0.0), N)
        gain = tl.where(single, 0.0, gain * tl.sqrt(minus * plus))
        re, im = gain * (hr * lr - hi * li), gain * (hr * li + hi * lr)
        _store_column(X, size, 2 * step + 1, re, tl.where(pair, im, 0.0), N)
        gr, gi = tl.where(used, 0.0, wr * nr - wi * ni), tl.where(used, 0.0, wr * ni + wi * nr)


@triton.jit
def _product(table, X, M, size, left, N: tl.constexpr, W: tl.constexpr):
    """M = L^T J L with columns divided by their sizes, and the squares of their norms."""
    n: tl.constexpr = 2 * N
    rows, some = tl.arange(0, n), tl.arange(0, W)
    sign = tl.where(rows < N, tl.load(table + 11 * N + rows % N), -1.0)
    for b in range(n):
        column = tl.load(X + b * n + rows) * sign
        total = tl.full((), 0.0, tl.float64)
        for first in range(0, n, W):
            tile = tl.load(X + (first + some)[:, None] * n + rows[None, :])
            entries = tl.load(size + first + some) * tl.sum(tile * column[None, :], 1)
            tl.store(M + b * n + first + some, entries)
            total += tl.sum(entries * entries, 0)
        tl.store(left + b, total)


@triton.jit
def _triangle(M, T, size, left, scale, N: tl.constexpr, W: tl.constexpr):
    """Rows of R of the pivoted QR factorisation of M as columns of T, of norm 1, with their norms in `scale`."""
    n: tl.constexpr = 2 * N
    rows, some = tl.arange(0, n), tl.arange(0, W)
    sizes = tl.load(size + rows)
    used = rows < 0
    for k in range(n):
        square = tl.load(left + rows)
        j = tl.argmax(tl.where(used, -1.0, tl.sqrt(square) * sizes), 0)
        norm = tl.sqrt(tl.load(left + j))
        before = used
        used = used | (rows == j)
        v = tl.where(rows >= k, tl.load(M + j * n + rows), 0.0)
        head = tl.load(M + j * n + k)
        signed = tl.where(head < 0, -norm, norm)
        v = tl.where(rows == k, v + signed, v)
        half = norm * (tl.abs(head) + norm)  # v . v / 2
        v = v * tl.where(half > 0, 1.0 / tl.sqrt(tl.where(half > 0, half, 1.0)), 0.0)
        tl.debug_barrier()
        for first in range(0, n, W):
            at = M + (first + some)[:, None] * n + rows[None, :]
            tile = tl.load(at)
            tile -= tl.sum(tile * v[None, :], 1)[:, None] * v[None, :]
            tl.store(at, tile)
            tl.store(left + first + some, tl.sum(tl.where((rows > k)[None, :], tile * tile, 0.0), 1))
        tl.debug_barrier()
        pivot = tl.load(size + j)
        row = tl.load(M + rows * n + k)
        row = tl.where(before, 0.0, row * (sizes / tl.where(pivot > 0, pivot, 1.0)))
        largest = tl.max(tl.abs(row), 0)
        row = row / tl.where(largest > 0, largest, 1.0)
        length = tl.sqrt(tl.sum(row * row, 0))
        tl.store(T + k * n + rows, row / tl.where(length > 0, length, 1.0))
        tl.store(scale + k, tl.maximum(largest * length * pivot, 1e-307))
    tl.debug_barrier()


@triton.jit
def _jacobi(T, scale, N: tl.constexpr, W: tl.constexpr):
    """Rotates pairs of columns of T diag(scale) until all are orthogonal. Columns stay apart from their scales, so that
    squares of small ones do not underflow."""
    n: tl.constexpr = 2 * N
    tolerance: tl.constexpr = n * 2.220446049250313e-16
    rows, some = tl.arange(0, n), tl.arange(0, W)
    sweep = 0
    worst = tl.full((), 1.0, tl.float64)
    while (sweep < SWEEPS) & (worst * n > tolerance):
        worst = tl.full((), 0.0, tl.float64)
        for turn in range(n - 1):
            for first in range(0, N, W):
                pair = first + some
                i = tl.where(pair == 0, n - 1, (turn + pair) % (n - 1))
                j = tl.where(pair == 0, turn, (turn - pair + n - 1) % (n - 1))
                scale_i, scale_j = tl.load(scale + i), tl.load(scale + j)
                # x the column with the larger scale; the rotated ones are cs (x + r t y) and cs (y - u x), t = r u.
                flip = scale_j > scale_i
                ix, iy = tl.where(flip, j, i), tl.where(flip, i, j)
                r = tl.minimum(scale_i, scale_j) / tl.maximum(scale_i, scale_j)
                at_x, at_y = T + ix[:, None] * n + rows[None, :], T + iy[:, None] * n + rows[None, :]
                x, y = tl.load(at_x), tl.load(at_y)
                xx, yy, c = tl.sum(x * x, 1), tl.sum(y * y, 1), tl.sum(x * y, 1)
                gap = xx - r * r * yy
                span = tl.abs(gap) + tl.sqrt(gap * gap + 4.0 * r * r * c * c)
                acts = c * c > tolerance * tolerance * xx * yy
                span = tl.where(acts, span, 1.0)
                u = tl.where(acts, 2.0 * c / tl.where(gap < 0, -span, span), 0.0)
                t = r * u
                cs = 1.0 / tl.sqrt(1.0 + t * t)
                tl.store(at_x, cs[:, None] * x + (cs * r * t)[:, None] * y)
                tl.store(at_y, cs[:, None] * y - (cs * u)[:, None] * x)
                worst = tl.maximum(worst, tl.max(tl.abs(c * u), 0))
            tl.debug_barrier()
        sweep += 1


@triton.jit
def _values(table, scratch, sigma, systems, programs, N: tl.constexpr, W: tl.constexpr):
    """sigma (systems, 2 N), unsorted; scratch: 8 N^2 + 6 N numbers for every program."""
    n: tl.constexpr = 2 * N
    rows = tl.arange(0, n)
    program = tl.program_id(0)
    X = scratch + program.to(tl.int64) * (2 * n * n + 3 * n)
    M = X + n * n
    size, left, scale = M + n * n, M + n * n + n, M + n * n + 2 * n
    s = program
    while s < systems:
        poles = table + s.to(tl.int64) * (FIELDS * N)
        tl.debug_barrier()
        _factorise(poles, X, size, N)
        tl.debug_barrier()
        _product(poles, X, M, size, left, N, W)
        tl.debug_barrier()
        _triangle(M, X, size, left, scale, N, W)
        _jacobi(X, scale, N, W)
        for first in range(0, n, W):
            columns = first + tl.arange(0, W)
            tile = tl.load(X + columns[:, None] * n + rows[None, :])
            length = tl.sqrt(tl.sum(tile * tile, 1))
            tl.store(sigma + s.to(tl.int64) * n + columns, length * tl.load(scale + columns))
        s += programs


def values(a: Tensor, root: Tensor, negative: Tensor, real: Tensor) -> Tensor:
    """(S, 2N) float64, descending; see `naive.hankel_values_naive`."""
    systems, slots = a.shape
    width = max(2, triton.next_power_of_2(slots))
    largest = root.abs().amax(1, keepdim=True)
    root = root / torch.where(largest > 0, largest, torch.ones_like(largest))
    pad = width - slots
    x = torch.nn.functional.pad(a.real, (0, pad), value=-1.0)
    half = torch.nn.functional.pad(a.imag / 2, (0, pad))
    em = torch.expm1(x)
    fields = [x, em, torch.exp(x), half, torch.cos(half) ** 2, torch.sin(half) ** 2]
    fields += [torch.cos(2 * half), torch.sin(2 * half), -em * (2 + em)]
    fields += [torch.nn.functional.pad(part, (0, pad)) for part in (root.real, root.imag)]
    fields.append(torch.nn.functional.pad(torch.where(negative, -1.0, 1.0).to(x.dtype), (0, pad), value=1.0))
    fields.append(torch.nn.functional.pad(real.to(x.dtype), (0, pad), value=1.0))
    table = torch.stack(fields, 1).contiguous()
    n = 2 * width
    programs = systems
    if a.is_cuda:
        programs = min(systems, PROGRAMS * torch.cuda.get_device_properties(a.device).multi_processor_count)
    scratch = x.new_empty(programs * (2 * n * n + 3 * n))
    sigma = x.new_empty(systems, n)
    _values[(programs,)](table, scratch, sigma, systems, programs, N=width, W=_block(width), num_warps=_warps(width))
    return (sigma * largest * largest).sort(dim=1, descending=True).values[:, : 2 * slots].contiguous()


def _block(width: int) -> int:
    """Pairs or columns of a tile."""
    return min(width, 8)


def _warps(width: int) -> int:
    return 2 if width <= 32 else 4


def specimens() -> Iterator[Specimen]:
    """Orders 64 and 128."""
    types = {"table": "*fp64", "scratch": "*fp64", "sigma": "*fp64", "systems": "i32", "programs": "i32"}
    for width in (32, 64):
        constants = {"N": width, "W": _block(width)}
        yield Specimen(kernel=_values, types=types, constants=constants, label=f"N={width}", warps=_warps(width))
