"""One step of Mamba-2 on a GPU: a program per sequence, head and block of rows; the state is read and written once.

Projectors are applied by a matrix product before: within the kernel every head and block would repeat it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmtool_kernels.backends import interpreting
from ssmtool_kernels.specimen import Specimen

ELEMENTS = 2048  # of a state per program


@triton.jit
def _step(
    x,
    dt,
    A,
    B,
    C,
    D,
    h,
    z,
    y,
    after,
    heads,
    groups,
    width,
    n,
    BP: tl.constexpr,
    BN: tl.constexpr,
    SKIP: tl.constexpr,
    GATE: tl.constexpr,
):
    unit, part = tl.program_id(0), tl.program_id(1)
    head = unit % heads
    row = (unit // heads) * groups + head // (heads // groups)
    p, k = part * BP + tl.arange(0, BP), tl.arange(0, BN)
    delta = tl.load(dt + unit)
    b = tl.load(B + row * n + k, mask=k < n, other=0.0).to(delta.dtype)
    c = tl.load(C + row * n + k, mask=k < n, other=0.0).to(delta.dtype)
    u = tl.load(x + unit * width + p, mask=p < width, other=0.0).to(delta.dtype)
    at = unit.to(tl.int64) * width * n + p[:, None] * n + k[None, :]
    inside = (p < width)[:, None] & (k < n)[None, :]
    state = tl.load(h + at, mask=inside, other=0.0).to(delta.dtype)
    state = state * tl.exp(delta * tl.load(A + head)) + (delta * u)[:, None] * b[None, :]
    tl.store(after + at, state.to(after.dtype.element_ty), mask=inside)
    out = tl.sum(state * c[None, :], 1)
    if SKIP:
        out += tl.load(D + head * width + p, mask=p < width, other=0.0) * u
    if GATE:
        gate = tl.load(z + unit * width + p, mask=p < width, other=0.0).to(delta.dtype)
        out *= gate / (1.0 + tl.exp(-gate))
    tl.store(y + unit * width + p, out.to(y.dtype.element_ty), mask=p < width)


def _blocks(width: int, n: int) -> dict[str, int]:
    states = triton.next_power_of_2(n)
    return {"BP": min(triton.next_power_of_2(width), max(1, ELEMENTS // states)), "BN": states}


def step(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, h: Tensor, z: Tensor | None
) -> tuple[Tensor, Tensor]:
    """x, z (b, H, P), dt (b, H), A (H,), B, C (b, G, n), D (H, P), h (b, H, P, n): y, and h after the step."""
    (batch, heads, width), (groups, n) = x.shape, B.shape[1:]
    kinds = (x.dtype, h.dtype)
    if interpreting():  # which computes bfloat16 wrongly
        x, B, C, h, z = (t if t is None or t.dtype == torch.float64 else t.float() for t in (x, B, C, h, z))  # type: ignore[assignment]
    y, after, blocks = torch.empty_like(x), torch.empty_like(h), _blocks(width, n)
    _step[(batch * heads, triton.cdiv(width, blocks["BP"]))](
        *(x, dt, A, B, C, A if D is None else D, h, x if z is None else z, y, after, heads, groups, width, n),
        **blocks,
        SKIP=D is not None,
        GATE=z is not None,
        num_warps=4,
    )
    return y.to(kinds[0]), after.to(kinds[1])


def specimens() -> Iterator[Specimen]:
    """64 rows, 128 states: float32, and bfloat16 with a float32 state."""
    for data in ("fp32", "bf16"):
        yield Specimen(
            kernel=_step,
            types={
                **dict.fromkeys(("x", "B", "C", "z", "y"), f"*{data}"),
                **dict.fromkeys(("dt", "A", "D", "h", "after"), "*fp32"),
                **dict.fromkeys(("heads", "groups", "width", "n"), "i32"),
            },
            constants={**_blocks(64, 128), "SKIP": True, "GATE": True},
            label=f"{data} N=128",
            aligned=("width", "n"),
        )
