"""The selective scan on a GPU: one warp per sequence and block of channels, a channel per lane, states in registers.

Steps follow one another, and the numbers of the next step are loaded while one is computed. Every number is read and
written once on the way forward. The backward pass goes from the last tile of steps to the first: from the state that
was kept at the tile's start it computes the tile's states again into working memory, a tile at a time, and walks back
through them. With N = 16 states the forward pass is bound by exp, not by memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmtool_kernels.specimen import Specimen

STEPS = 16  # of a tile: APART in op.py
CHANNELS = 32  # of a block: a warp

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _log1p(u):
    """log(1 + u), 0 <= u <= 1, see `vexp.h`; of small u too, which the step sizes of a trained model are."""
    if u.dtype == tl.float64:
        return tl.log(1.0 + u)
    s = u / (2.0 + u)
    w = s * s
    p = 0.14012572 * w + 0.13999501
    p = p * w + 0.20010853
    p = p * w + 0.33333206
    return 2.0 * (s + s * w * p)


@triton.jit
def _logistic(v):
    return 1.0 / (1.0 + tl.exp(-v))


@triton.jit
def _step_size(raw, SOFTPLUS: tl.constexpr):
    if SOFTPLUS:
        raw = tl.maximum(raw, 0.0) + _log1p(tl.exp(-tl.abs(raw)))
    return raw


@triton.jit
def _columns(block, width, blocks, W: tl.constexpr):
    """Channels of a block, which are within it, and its group.

    Said not to be contiguous: wide loads would give a lane several channels, and a channel's states to several lanes.
    """
    inner = (block % blocks) * W + tl.arange(0, W)
    return tl.max_contiguous((block // blocks) * width + inner, 1), inner < width, block // blocks


@triton.jit
def _row(base, t, channels, cols, mask, work: tl.constexpr):
    """One step of a (total, channels) array, or of B and C."""
    return tl.load(base + t * channels + cols, mask=mask, other=0.0).to(work)


@triton.jit
def _forward(
    x,
    dt,
    A,
    B,
    C,
    D,
    h0,
    z,
    bias,
    resets,
    offsets,
    y,
    last,
    kept,
    channels,
    groups,
    width,
    blocks,
    W: tl.constexpr,
    N: tl.constexpr,
    STATES: tl.constexpr,
    T: tl.constexpr,
    THROUGH: tl.constexpr,
    GATE: tl.constexpr,
    BIAS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    RESETS: tl.constexpr,
    KEEP: tl.constexpr,
):
    work: tl.constexpr = h0.dtype.element_ty
    s = tl.program_id(0).to(tl.int64)
    cols, inside, group = _columns(tl.program_id(1), width, blocks, W)
    start, stop = tl.load(offsets + s), tl.load(offsets + s + 1)
    n = tl.arange(0, N)
    real = n < STATES
    there = real[:, None] & inside[None, :]
    own = cols[None, :] * STATES + n[:, None]
    h = tl.load(h0 + s * channels * STATES + own, mask=there, other=0.0)
    rate = tl.load(A + own, mask=there, other=0.0) * LOG2E
    through = tl.load(D + cols, mask=inside, other=0.0).to(work)
    shift = tl.load(bias + cols, mask=inside, other=0.0).to(work)
    shared = groups * STATES
    t = tl.maximum(tl.minimum(start, stop - 1), 0)  # a row to be read even if there is no step
    u = _row(x, t, channels, cols, inside, work)
    raw = _row(dt, t, channels, cols, inside, work)
    b = _row(B + group * STATES, t, shared, n, real, work)
    c = _row(C + group * STATES, t, shared, n, real, work)
    gate = u
    if GATE:
        gate = _row(z, t, channels, cols, inside, work)
    for t in range(start, stop):
        after = tl.minimum(t + 1, stop - 1)
        next_u = _row(x, after, channels, cols, inside, work)
        next_raw = _row(dt, after, channels, cols, inside, work)
        next_b = _row(B + group * STATES, after, shared, n, real, work)
        next_c = _row(C + group * STATES, after, shared, n, real, work)
        next_gate = next_u
        if GATE:
            next_gate = _row(z, after, channels, cols, inside, work)
        if KEEP:  # noqa: SIM102 - the outer one is decided by the compiler
            if (t - start) % T == 0:
                slot = (start // T + s + (t - start) // T) * tl.num_programs(1) + tl.program_id(1)
                tl.store(kept + slot * N * W + n[:, None] * W + tl.arange(0, W)[None, :], h)
        if RESETS:
            h = tl.where(tl.load(resets + t) != 0, 0.0, h)
        if BIAS:
            raw += shift
        dt_now = _step_size(raw, SOFTPLUS)
        h = tl.exp2(dt_now[None, :] * rate) * h + (dt_now * u)[None, :] * b[:, None]
        out = tl.sum(h * c[:, None], 0)
        if THROUGH:
            out += through * u
        if GATE:
            out *= gate * _logistic(gate)
        tl.store(y + t * channels + cols, out.to(y.dtype.element_ty), mask=inside)
        u, raw, b, c, gate = next_u, next_raw, next_b, next_c, next_gate
    tl.store(last + s * channels * STATES + own, h, mask=there)


@triton.jit
def _backward(
    x,
    dt,
    A,
    B,
    C,
    D,
    z,
    bias,
    resets,
    offsets,
    kept,
    dy,
    dlast,
    dx,
    d_dt,
    dz,
    dh0,
    part_A,
    part_B,
    part_C,
    part_D,
    part_bias,
    scratch,
    total,
    channels,
    groups,
    width,
    blocks,
    W: tl.constexpr,
    N: tl.constexpr,
    STATES: tl.constexpr,
    T: tl.constexpr,
    THROUGH: tl.constexpr,
    GATE: tl.constexpr,
    BIAS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    RESETS: tl.constexpr,
):
    work: tl.constexpr = dlast.dtype.element_ty
    s, block = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    cols, inside, group = _columns(block, width, blocks, W)
    start, stop = tl.load(offsets + s), tl.load(offsets + s + 1)
    n = tl.arange(0, N)
    real = n < STATES
    there = real[:, None] & inside[None, :]
    own = cols[None, :] * STATES + n[:, None]
    mine = s * channels * STATES
    g = tl.load(dlast + mine + own, mask=there, other=0.0)
    rate = tl.load(A + own, mask=there, other=0.0) * LOG2E
    through = tl.load(D + cols, mask=inside, other=0.0).to(work)
    shift = tl.load(bias + cols, mask=inside, other=0.0).to(work)
    dA = tl.zeros((N, W), work)
    dD = tl.zeros((W,), work)
    d_bias = tl.zeros((W,), work)
    shared = groups * STATES
    place = n[:, None] * W + tl.arange(0, W)[None, :]
    memory = scratch + (s * tl.num_programs(1) + block) * T * N * W
    tiles = (stop - start + T - 1) // T
    for back in range(tiles):
        tile = tiles - 1 - back
        first = start + tile * T
        size = tl.minimum(stop - first, T)
        slot = (start // T + s + tile) * tl.num_programs(1) + block
        h = tl.load(kept + slot * N * W + place)
        for i in range(size):
            t = first + i
            if RESETS:
                h = tl.where(tl.load(resets + t) != 0, 0.0, h)
            tl.store(memory + i * N * W + place, h)
            u = _row(x, t, channels, cols, inside, work)
            b = _row(B + group * STATES, t, shared, n, real, work)
            raw = _row(dt, t, channels, cols, inside, work)
            if BIAS:
                raw += shift
            dt_now = _step_size(raw, SOFTPLUS)
            h = tl.exp2(dt_now[None, :] * rate) * h + (dt_now * u)[None, :] * b[:, None]
        tl.debug_barrier()
        for j in range(size):
            t = first + size - 1 - j
            before = tl.load(memory + (size - 1 - j) * N * W + place)
            u = _row(x, t, channels, cols, inside, work)
            b = _row(B + group * STATES, t, shared, n, real, work)
            c = _row(C + group * STATES, t, shared, n, real, work)
            lost_y = _row(dy, t, channels, cols, inside, work)
            raw = _row(dt, t, channels, cols, inside, work)
            if BIAS:
                raw += shift
            dt_now = _step_size(raw, SOFTPLUS)
            drive = dt_now * u
            decay = tl.exp2(dt_now[None, :] * rate)
            carried = decay * before
            now = carried + drive[None, :] * b[:, None]
            if GATE:
                gate = _row(z, t, channels, cols, inside, work)
                opened = _logistic(gate)
                out = tl.sum(now * c[:, None], 0)
                if THROUGH:
                    out += through * u
                to_z = lost_y * out * opened * (1.0 + gate * (1.0 - opened))
                tl.store(dz + t * channels + cols, to_z.to(dz.dtype.element_ty), mask=inside)
                lost_y *= gate * opened
            lost = g + lost_y[None, :] * c[:, None]
            part = (block * total + t) * STATES
            tl.store(part_C + part + n, tl.sum(now * lost_y[None, :], 1), mask=real)
            tl.store(part_B + part + n, tl.sum(lost * drive[None, :], 1), mask=real)
            to_drive = tl.sum(lost * b[:, None], 0)
            to_exponent = lost * carried
            dA += to_exponent * dt_now[None, :]
            to_x = to_drive * dt_now
            to_dt = tl.sum(to_exponent * rate, 0) / LOG2E + to_drive * u
            if THROUGH:
                to_x += through * lost_y
                dD += lost_y * u
            if SOFTPLUS:
                to_dt *= _logistic(raw)
            d_bias += to_dt
            tl.store(dx + t * channels + cols, to_x.to(dx.dtype.element_ty), mask=inside)
            tl.store(d_dt + t * channels + cols, to_dt.to(d_dt.dtype.element_ty), mask=inside)
            g = lost * decay
            if RESETS:
                g = tl.where(tl.load(resets + t) != 0, 0.0, g)
        tl.debug_barrier()
    tl.store(dh0 + mine + own, g, mask=there)
    tl.store(part_A + mine + own, dA, mask=there)
    tl.store(part_D + s * channels + cols, dD, mask=inside)
    tl.store(part_bias + s * channels + cols, d_bias, mask=inside)


def _constants(A: Tensor, D: Tensor | None, z: Tensor | None, bias: Tensor | None, softplus: bool) -> dict[str, object]:
    states = A.shape[1]
    return {
        "W": CHANNELS,
        "N": triton.next_power_of_2(states),
        "STATES": states,
        "THROUGH": D is not None,
        "GATE": z is not None,
        "BIAS": bias is not None,
        "SOFTPLUS": softplus,
        "T": STEPS,
    }


def forward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    h0: Tensor,
    z: Tensor | None,
    bias: Tensor | None,
    resets: Tensor | None,
    offsets: Tensor,
    y: Tensor,
    last: Tensor,
    kept: Tensor | None,
    softplus: bool,
) -> None:
    """Flat contiguous tensors, see `op._scan`; writes y, last and, if given, kept (slots, blocks, N, W)."""
    count, channels, groups = len(offsets) - 1, x.shape[1], B.shape[1]
    width = channels // groups
    blocks = triton.cdiv(width, CHANNELS)
    _forward[(count, groups * blocks)](
        *(x, dt, A, B, C, x if D is None else D, h0, x if z is None else z, x if bias is None else bias),
        *(x if resets is None else resets.view(torch.uint8), offsets, y, last, last if kept is None else kept),
        *(channels, groups, width, blocks),
        RESETS=resets is not None,
        KEEP=kept is not None,
        **_constants(A, D, z, bias, softplus),
        num_warps=1,
    )


def backward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    resets: Tensor | None,
    offsets: Tensor,
    kept: Tensor,
    dy: Tensor,
    dlast: Tensor,
    found: list[Tensor],
    softplus: bool,
) -> None:
    """Writes `found`: gradients of x, dt, A, B, C, D, h0, z, bias. Sums over blocks and sequences keep their order."""
    count, (total, channels), (groups, states) = len(offsets) - 1, x.shape, B.shape[1:]
    width = channels // groups
    blocks = triton.cdiv(width, CHANNELS)
    dx, d_dt, dA, dB, dC, dD, dh0, dz, d_bias = found
    part_A = A.new_empty((count, channels, states))
    part_B, part_C = (A.new_empty((groups, blocks, total, states)) for _ in "BC")
    part_D, part_bias = (A.new_empty((count, channels)) for _ in "Db")
    padded = triton.next_power_of_2(states)
    scratch = A.new_empty((count * groups * blocks, STEPS, padded, CHANNELS))
    _backward[(count, groups * blocks)](
        *(x, dt, A, B, C, x if D is None else D, x if z is None else z, x if bias is None else bias),
        *(x if resets is None else resets.view(torch.uint8), offsets, kept, dy, dlast),
        *(dx, d_dt, x if z is None else dz, dh0, part_A, part_B, part_C, part_D, part_bias),
        *(scratch, total, channels, groups, width, blocks),
        RESETS=resets is not None,
        **_constants(A, D, z, bias, softplus),
        num_warps=1,
    )
    dA.copy_(part_A.sum(0))
    dB.copy_(part_B.sum(1).transpose(0, 1))
    dC.copy_(part_C.sum(1).transpose(0, 1))
    if D is not None:
        dD.copy_(part_D.sum(0))
    if bias is not None:
        d_bias.copy_(part_bias.sum(0))


def specimens() -> Iterator[Specimen]:
    """N = 16 with everything a Mamba-1 layer asks for, float32 and bfloat16 inputs."""
    constants = {
        "W": CHANNELS,
        "N": 16,
        "STATES": 16,
        "THROUGH": True,
        "GATE": True,
        "BIAS": True,
        "SOFTPLUS": True,
        "RESETS": False,
        "T": STEPS,
    }
    for kind in ("fp32", "bf16"):
        types = {
            **dict.fromkeys(("x", "dt", "B", "C", "z", "y", "dy", "dx", "d_dt", "dz"), f"*{kind}"),
            **dict.fromkeys(("A", "D", "h0", "bias", "last", "kept", "dlast", "dh0"), "*fp32"),
            **dict.fromkeys(("part_A", "part_B", "part_C", "part_D", "part_bias", "scratch"), "*fp32"),
            **dict.fromkeys(("total", "channels", "groups", "width", "blocks"), "i32"),
            "resets": "*u8",
            "offsets": "*i64",
        }
        for kernel, extra in ((_forward, {"KEEP": True}), (_backward, {})):
            yield Specimen(
                kernel=kernel,
                types={name: types[name] for name in kernel.arg_names if name in types},
                constants={**constants, **extra},
                label=f"{kind} N=16",
                warps=1,
                aligned=("channels", "width", "total"),
            )
