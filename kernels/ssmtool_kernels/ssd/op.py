"""The scan of Mamba-2 on every backend."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmtool_kernels.backends import resolve
from ssmtool_kernels.checks import dimensions, shaped
from ssmtool_kernels.segments import each_sequence, offsets, resets_of
from ssmtool_kernels.ssd.chunked import ssd_chunked
from ssmtool_kernels.ssd.inputs import check, feedthrough, parameters, working
from ssmtool_kernels.ssd.naive import ssd_naive
from ssmtool_kernels.ssd.options import gated, projected, step_sizes
from ssmtool_kernels.ssd.registered import project, scan, softplus


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    h0: Tensor | None = None,
    *,
    project_b: Tensor | None = None,
    project_c: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, math.inf),
    z: Tensor | None = None,
    resets: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """h[t] = exp(dt[t] A) h[t-1] + dt[t] x[t] B[t]^T,  y[t] = h[t] C[t] + D x[t],  for every head.

    Mamba-2 (Dao and Gu, 2024, equation 16). With projectors the scan has r < N states: those of project_b B and
    project_c C, what a reduced model computes.

    Args:
        x: (b, L, H, P), float32 or float64. float16 and bfloat16 are computed in float32; on the GPU, matrix products
            take them as they are and add up in float32.
        dt: (b, L, H) step sizes, positive after `dt_bias`, `dt_softplus` and `dt_limit`.
        A: (H,), negative.
        B, C: (b, L, G, N) of the dtype of x; head j uses group j // (H / G).
        D: (H, P) or (H, 1) feedthrough; none by default.
        h0: (b, H, P, N) state before the first step, 0 by default; (k, H, P, N) for packed sequences.
        project_b, project_c: (G, r, N); then states are (b, H, P, r).
        dt_bias: (H,).
        dt_softplus: dt becomes clamp(softplus(dt + dt_bias)), without it clamp(dt + dt_bias).
        dt_limit: the clamp's bounds.
        z: (b, L, H, P): y becomes y silu(z).
        resets: (b, L) bool: the state is set to 0 before step t where resets[:, t].
        cu_seqlens: (k + 1,) integers: k sequences packed along time in a batch of 1, as many states in and out.
        backend: see `ssmtool_kernels.backends`.

    dt, A, D, dt_bias, h0 and projectors have the dtype of x, or float32 beside a half-precision x.

    Returns:
        y (b, L, H, P) in the dtype of x, and the last state (b, H, P, N) in that of h0 (of x, if there is none).
        Differentiable once in all tensors.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit.
        BackendError: the backend cannot run here.
    """
    batch, length, heads, width = dimensions("x", x, "b, L, H, P")
    states = check((batch, length), x, dt, A, B, C, D, z, project_b, project_c, dt_bias, dt_limit)
    bounds = offsets(batch, length, cu_seqlens, x.device)
    shaped("h0", h0, len(bounds) - 1, heads, width, states, letters="(sequences, H, P, N)")
    parameters(x, h0=h0)
    mask = resets_of(resets, batch, length, x.device)
    # On the CPU auto takes the C source at every size. One thread, L 2048, H 8, P 64, batches of 1 and 4: forward it is
    # 3 to 5 times as fast as the matrix products of `torch` at N = 128, 5 to 9 at 64, 5 to 8 at 32, 8 or more at 16;
    # forward and backward together 1.6 to 4 times.
    chosen = resolve(backend, x)
    work, half = working(x), x.dtype if h0 is None else h0.dtype

    if chosen == "naive" and cu_seqlens is None:
        y, last = ssd_naive(
            *(x.to(work), dt.to(work), A.to(work), B.to(work), C.to(work)),
            *(_to(work, D), _to(work, h0), mask),
            z=_to(work, z),
            project_b=_to(work, project_b),
            project_c=_to(work, project_c),
            dt_bias=_to(work, dt_bias),
            dt_softplus=dt_softplus,
            dt_limit=dt_limit,
        )
        return y.to(x.dtype), last.to(half)

    # Kernels take B and C projected: the product costs (N + r) / (P H / G) of the scan's traffic and is done once for
    # all heads of a group, where loads that project would repeat it for every head.
    data = x.dtype if chosen == "triton" else work
    curve = softplus if chosen == "cpu" else F.softplus
    times = step_sizes(dt.to(work), _to(work, dt_bias), dt_softplus, dt_limit, curve)
    product = project if chosen == "cpu" else projected
    rows, columns = B.to(data), C.to(data)
    if project_b is not None and project_c is not None:
        rows, columns = product(rows, project_b.to(data)), product(columns, project_c.to(data))
    weights = (times, A.to(work), rows, columns, feedthrough(_to(work, D), heads, width))
    if chosen in ("naive", "torch"):
        step, state = (ssd_naive if chosen == "naive" else ssd_chunked), _to(work, h0)
        along, alpha, skip = (x.to(work), times, rows, columns, mask), weights[1], weights[4]
        if cu_seqlens is None:
            y, last = step(along[0], times, alpha, rows, columns, skip, state, mask)
        else:
            y, last = each_sequence(
                lambda x, dt, B, C, m, h: step(x, dt, alpha, B, C, skip, h, m), along, state, cu_seqlens
            )
        return gated(y, _to(work, z)).to(x.dtype), last.to(half)

    state = x.new_zeros((len(bounds) - 1, heads, width, states), dtype=work) if h0 is None else h0.to(work)
    y, last = scan(x.to(data), *weights, state, _to(data, z), mask, bounds, chosen)
    return y.to(x.dtype), last.to(half)


def _to(dtype: torch.dtype, tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.to(dtype)
