"""The selective scan on every backend, registered with PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssmtool_kernels import native
from ssmtool_kernels.backends import FLOATS, resolve
from ssmtool_kernels.checks import dimensions, same_kind, shaped
from ssmtool_kernels.segments import each_sequence, offsets, resets_of
from ssmtool_kernels.selective_scan.naive import selective_scan_naive, selective_step_naive
from ssmtool_kernels.selective_scan.stepwise import selective_scan_stepwise

BLOCK = {"cpu": 64, "triton": 32}  # channels of a block: W in native.c, CHANNELS in triton.py
APART = {
    "cpu": 64,
    "triton": 16,
}  # steps between states kept for the backward pass: Q in native.c, STEPS in triton.py


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    h0: Tensor | None = None,
    *,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    resets: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """h[t] = exp(dt[t] A) h[t-1] + dt[t] x[t] B[t],  y[t] = (C[t] . h[t] + D x[t]) silu(z[t]),  for every channel.

    Args:
        x: (b, L, E) inputs, float32 or float64; float16 and bfloat16 are computed in float32.
        dt: (b, L, E) step sizes, of x's dtype as B, C and z.
        A: (E, N), of x's dtype or the one it is computed in, as D, dt_bias and h0.
        B, C: (b, L, G, N); channel e uses group e // (E / G).
        D: (E,) feedthrough; none by default.
        h0: (b, E, N) state before the first step; 0 by default. (k, E, N) for packed sequences.
        z: (b, L, E) gate; none by default.
        dt_bias: (E,), added to dt.  dt_softplus: the step is softplus(dt + dt_bias).
        resets: (b, L) bool: the state is set to 0 before step t where resets[:, t].
        cu_seqlens: (k + 1,) integers: k sequences packed along time in a batch of 1, as many states in and out.
        backend: see `ssmtool_kernels.backends`.

    Returns:
        y (b, L, E) of x's dtype, and the last state (b, E, N) or (k, E, N) of A's. Differentiable once in every tensor.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit.
        BackendError: the backend cannot run here.
    """
    batch, length, channels = dimensions("x", x, "b, L, E")
    shaped("dt", dt, batch, length, channels, letters="(b, L, E)")
    shaped("z", z, batch, length, channels, letters="(b, L, E)")
    groups, states = _parameters(x, dt, A, B, C, D, z, dt_bias, h0, "b, L, G, N")
    for name, tensor in {"B": B, "C": C}.items():
        shaped(name, tensor, batch, length, groups, states, letters="(b, L, G, N)")
    bounds = offsets(batch, length, cu_seqlens, x.device)
    shaped("h0", h0, len(bounds) - 1, channels, states, letters="(sequences, E, N)")
    mask = resets_of(resets, batch, length, x.device)
    chosen = resolve(backend, x)
    if chosen in ("naive", "torch"):
        form = selective_scan_naive if chosen == "naive" else selective_scan_stepwise
        work = _work(x)
        rates, through, bias, state = (None if p is None else p.to(work) for p in (A, D, dt_bias, h0))

        def scan(x: Tensor, dt: Tensor, B: Tensor, C: Tensor, z: Tensor | None, m: Tensor | None, h: Tensor | None):
            given = (x, dt, rates, B, C, through, h)
            return form(*given, z=z, dt_bias=bias, dt_softplus=dt_softplus, resets=m)  # type: ignore

        along = [t if t is None or t.dtype == torch.bool else t.to(work) for t in (x, dt, B, C, z, mask)]
        y, last = scan(*along, state) if cu_seqlens is None else each_sequence(scan, along, state, cu_seqlens)  # type: ignore
        return y.to(x.dtype), last.to(A.dtype)
    y, last = _flat(
        *(x.reshape(-1, channels), dt.reshape(-1, channels), A, B.reshape(-1, groups, states)),
        *(C.reshape(-1, groups, states), D, h0, None if z is None else z.reshape(-1, channels), dt_bias),
        *(None if mask is None else mask.view(-1), bounds, dt_softplus, chosen),
    )
    return y.view(x.shape), last


def selective_step(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    h: Tensor,
    *,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """One step of `selective_scan`, for decoding; on backend cpu with the same bits as the scan.

    Args:
        x, dt, z: (b, E).  B, C: (b, G, N).  h: (b, E, N) state.  A, D, dt_bias: as in `selective_scan`.

    Returns:
        y (b, E), and the new state (b, E, N). Differentiable once.

    Raises:
        ValueError, BackendError: as `selective_scan`.
    """
    batch, channels = dimensions("x", x, "b, E")
    shaped("dt", dt, batch, channels, letters="(b, E)")
    shaped("z", z, batch, channels, letters="(b, E)")
    groups, states = _parameters(x, dt, A, B, C, D, z, dt_bias, h, "b, G, N")
    for name, tensor in {"B": B, "C": C}.items():
        shaped(name, tensor, batch, groups, states, letters="(b, G, N)")
    shaped("h", h, batch, channels, states, letters="(b, E, N)")
    chosen = resolve(backend, x)
    if chosen in ("naive", "torch"):
        work = _work(x)
        given = [None if t is None else t.to(work) for t in (x, dt, A, B, C, D, h, z, dt_bias)]
        y, last = selective_step_naive(*given, dt_softplus)  # type: ignore
        return y.to(x.dtype), last.to(A.dtype)
    bounds = torch.arange(batch + 1, dtype=torch.int64, device=x.device)
    return _flat(x, dt, A, B, C, D, h, z, dt_bias, None, bounds, dt_softplus, chosen)


def _work(x: Tensor) -> torch.dtype:
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype


def _parameters(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    h: Tensor | None,
    letters: str,
) -> tuple[int, int]:
    """Check dtypes, devices and the shapes of parameters; returns groups and states. Raises ValueError."""
    if x.dtype not in FLOATS:
        raise ValueError(f"x is {x.dtype}: a real floating dtype is needed")
    same_kind("x", x, dt=dt, B=B, C=C, z=z)
    for name, tensor in {"A": A, "D": D, "dt_bias": dt_bias, "h0": h}.items():
        if tensor is None:
            continue
        if tensor.device != x.device:
            raise ValueError(f"{name} is on {tensor.device}, x on {x.device}")
        if tensor.dtype not in (x.dtype, _work(x)):
            raise ValueError(f"{name} is {tensor.dtype}, x is {x.dtype} and computed in {_work(x)}")
    channels, states = x.shape[-1], dimensions("A", A, "E, N")[1]
    groups = dimensions("B", B, letters)[-2]
    for name, tensor in {"D": D, "dt_bias": dt_bias}.items():
        shaped(name, tensor, channels, letters="(E,)")
    shaped("A", A, channels, states, letters="(E, N)")
    if groups < 1 or channels % groups:
        raise ValueError(f"{channels} channels do not fall into {groups} groups")
    return groups, states


def _flat(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    h0: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    resets: Tensor | None,
    offsets: Tensor,
    softplus: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """What both backends are given: one time axis, in dtypes they compute in. Triton reads half precision itself."""
    work = _work(x)
    if h0 is None:
        h0 = x.new_zeros((len(offsets) - 1, *A.shape), dtype=work)
    along = [x, dt, B, C, z]
    if backend == "cpu":
        along = [None if t is None else t.to(work) for t in along]
    parameters = [None if t is None else t.to(work) for t in (A, D, h0, bias)]
    tensors = [t for t in (*along, *parameters) if t is not None]
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    (u, step, b, c, gate), (a, d, h, shift) = along, parameters
    y, last, _ = _scan(u, step, a, b, c, d, h, gate, shift, resets, offsets, softplus, keep, backend)  # type: ignore
    return y.to(x.dtype), last.to(A.dtype)


def _kept_shape(x: Tensor, A: Tensor, groups: int, count: int, keep: bool, backend: str) -> tuple[int, ...]:
    """States every APART steps: sequence s begins at slot offsets[s] // APART + s, which leaves room for all before."""
    if not keep:
        return (0,)
    channels, states = A.shape
    slots = x.shape[0] // APART[backend] + count
    if backend == "triton":  # whose numbers of states are powers of two
        states = 1 << (states - 1).bit_length()
    return slots, groups * _blocks(channels, groups, backend), states, BLOCK[backend]


def _blocks(channels: int, groups: int, backend: str) -> int:
    return -(channels // groups // -BLOCK[backend])


@torch.library.custom_op("ssmtool::selective_scan", mutates_args=())
def _scan(
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
    softplus: bool,
    keep: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Flat: x, dt, z (total, E), B, C (total, G, N), h0 (k, E, N), resets (total,), offsets (k + 1,)."""
    given = [None if t is None else t.contiguous() for t in (x, dt, A, B, C, D, h0, z, bias)]
    count, (groups, states) = len(offsets) - 1, B.shape[1:]
    if x.numel() == 0 or count == 0:
        return torch.zeros_like(x), h0.clone(), A.new_empty(0)
    y, last = x.new_empty(x.shape), h0.new_empty(h0.shape)
    kept = A.new_empty(_kept_shape(x, A, groups, count, keep, backend))
    if backend == "triton":
        from ssmtool_kernels.selective_scan import triton

        triton.forward(*given, resets, offsets, y, last, kept if keep else None, softplus)  # type: ignore
    else:
        threads = native.threads()
        scratch = A.new_empty((threads, 2 * states * BLOCK["cpu"]))
        run = native.function("selective_scan", "forward", x.dtype)
        run(
            *(*given, resets, offsets.cpu(), y, last, kept if keep else None, scratch),
            *(count, x.shape[1], groups, states, softplus, threads),
        )
    return y, last, kept


@_scan.register_fake
def _(
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
    softplus: bool,
    keep: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    shape = _kept_shape(x, A, B.shape[1], offsets.shape[0] - 1, keep, backend)
    return x.new_empty(x.shape), h0.new_empty(h0.shape), A.new_empty(shape)


@torch.library.custom_op("ssmtool::selective_scan_backward", mutates_args=())
def _scan_backward(
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
    softplus: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, dt, A, B, C, D, h0, z, bias; empty where there was no D, z or bias."""
    given = [None if t is None else t.contiguous() for t in (x, dt, A, B, C, D, z, bias)]
    dy, dlast = dy.contiguous(), dlast.contiguous()
    count, channels, (groups, states) = len(offsets) - 1, x.shape[1], B.shape[1:]
    like = (x, dt, A, B, C, D, dlast, z, bias)
    if x.numel() == 0 or count == 0:
        zeros = [x.new_empty(0) if t is None else torch.zeros_like(t) for t in like]
        zeros[6] = dlast.clone()
        return tuple(zeros)  # type: ignore
    found = [x.new_empty(0) if t is None else t.new_empty(t.shape) for t in like]
    if backend == "triton":
        from ssmtool_kernels.selective_scan import triton

        triton.backward(*given, resets, offsets, kept, dy, dlast, found, softplus)  # type: ignore
        return tuple(found)  # type: ignore
    threads, blocks = native.threads(), groups * _blocks(channels, groups, "cpu")
    apart, wide = APART["cpu"], BLOCK["cpu"]
    scratch = A.new_empty((threads, (4 + 2 * apart) * states * wide + 3 * apart * wide))
    parts = [(count, channels, states), (blocks, len(x), states), (blocks, len(x), states)]
    working = [A.new_empty(shape) for shape in (*parts, (count, channels), (count, channels))]
    native.function("selective_scan", "backward", x.dtype)(
        *(*given, resets, offsets.cpu(), kept, dy, dlast, *found, *working, scratch),
        *(scratch.shape[1], count, channels, groups, states, softplus, threads),
    )
    return tuple(found)  # type: ignore


@_scan_backward.register_fake
def _(
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
    softplus: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    like = (x, dt, A, B, C, D, dlast, z, bias)
    return tuple(x.new_empty(0) if t is None else t.new_empty(t.shape) for t in like)  # type: ignore


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, dt, A, B, C, D, _, z, bias, resets, bounds, softplus, _, backend = inputs
    ctx.save_for_backward(x, dt, A, B, C, D, z, bias, resets, bounds, output[2])
    ctx.options = softplus, backend


def _differentiate(ctx: Any, dy: Tensor, dlast: Tensor, _: Tensor) -> tuple[Any, ...]:
    found = _scan_backward(*ctx.saved_tensors, dy, dlast, *ctx.options)
    given = ctx.saved_tensors
    absent = {5: given[5], 7: given[6], 8: given[7]}
    return *(None if i in absent and absent[i] is None else g for i, g in enumerate(found)), *(None,) * 5


_scan.register_autograd(_differentiate, setup_context=_setup)
