"""One step of the scan of Mamba-2: what decoding runs for every token."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmtool_kernels import native
from ssmtool_kernels.backends import resolve
from ssmtool_kernels.checks import dimensions, shaped
from ssmtool_kernels.ssd.inputs import check, feedthrough, parameters, working
from ssmtool_kernels.ssd.naive import ssd_step_naive
from ssmtool_kernels.ssd.options import projected, step_sizes
from ssmtool_kernels.ssd.registered import softplus


def ssd_step(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    h: Tensor,
    *,
    project_b: Tensor | None = None,
    project_c: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, math.inf),
    z: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """h = exp(dt A) h + dt x B^T, y = h C + D x: one step of `ssd`, with its options.

    On backends naive and cpu, steps one by one repeat the scan bit for bit. The step reads the state and writes it, and
    that is all it costs: a state of r in place of N is faster by N / r.

    Args:
        x, z: (b, H, P).  dt: (b, H).  A, dt_bias: (H,).  B, C: (b, G, N).  D: (H, P) or (H, 1).
        h: (b, H, P, N), or (b, H, P, r) with projectors (G, r, N). It is not changed.
        project_b, project_c, dt_bias, dt_softplus, dt_limit, z, backend: as for `ssd`.

    Returns:
        y (b, H, P) in the dtype of x, and the next state in the dtype of h. Differentiable once.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit.
        BackendError: the backend cannot run here.
    """
    batch, heads, width = dimensions("x", x, "b, H, P")
    states = check((batch,), x, dt, A, B, C, D, z, project_b, project_c, dt_bias, dt_limit)
    shaped("h", h, batch, heads, width, states, letters="(b, H, P, N)")
    parameters(x, h=h)
    chosen, work = resolve(backend, x), working(x)
    given = (x, dt, A, B, C, D, h, project_b, project_c, dt_bias, z)
    wide: list[Any] = [None if t is None else t.to(work) for t in given]
    x_, dt_, A_, B_, C_, D_, h_, project_b_, project_c_, bias_, z_ = wide
    if chosen in ("naive", "torch"):
        y, after = ssd_step_naive(
            *(x_, dt_, A_, B_, C_, D_, h_),
            z=z_,
            project_b=project_b_,
            project_c=project_c_,
            dt_bias=bias_,
            dt_softplus=dt_softplus,
            dt_limit=dt_limit,
        )
    else:
        curve = softplus if chosen == "cpu" else F.softplus
        times = step_sizes(dt_, bias_, dt_softplus, dt_limit, curve)
        skip = feedthrough(D_, heads, width)
        if chosen == "triton":  # reads half precision as it is
            sides = [None if side is None else side.to(x.dtype) for side in (project_b, project_c)]
            B, C = projected(B, sides[0]), projected(C, sides[1])
            y, after = _step(x, times, A_, B, C, skip, h, None, None, z, chosen)
        else:
            y, after = _step(x_, times, A_, B_, C_, skip, h_, project_b_, project_c_, z_, chosen)
    return y.to(x.dtype), after.to(h.dtype)


@torch.library.custom_op("ssmtool::ssd_step", mutates_args=())
def _step(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    h: Tensor,
    project_b: Tensor | None,
    project_c: Tensor | None,
    z: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor]:
    tensors = (x, dt, A, B, C, D, h, z)
    parts: list[Any] = [None if t is None else t.contiguous() for t in tensors]
    if backend == "triton" and h.numel():
        from ssmtool_kernels.ssd import triton_step

        return triton_step.step(*parts)
    y, after = torch.empty_like(parts[0]), torch.empty_like(parts[6])
    if h.numel() == 0:
        return torch.zeros_like(y), after
    sides = [None if side is None else side.mT.contiguous() for side in (project_b, project_c)]
    sizes = (*x.shape, *B.shape[1:], h.shape[3], native.threads())
    native.function("ssd", "step", x.dtype)(*parts, *sides, y, after, *sizes)
    return y, after


@_step.register_fake
def _(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    h: Tensor,
    project_b: Tensor | None,
    project_c: Tensor | None,
    z: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), h.new_empty(h.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:-1], output[1])


def _differentiate(ctx: Any, dy: Tensor, dafter: Tensor) -> tuple[Any, ...]:
    kinds = [None if t is None else t.dtype for t in ctx.saved_tensors[:-1]]
    work = ctx.saved_tensors[1].dtype
    wide: list[Any] = [None if t is None else t.to(work) for t in (*ctx.saved_tensors, dy, dafter)]
    x, dt, A, B, C, D, h, project_b, project_c, z, after, dy, dafter = wide
    share = x.shape[1] // B.shape[1]
    narrow = [projected(part, side) for part, side in ((B, project_b), (C, project_c))]
    rows, columns = (part.repeat_interleave(share, dim=1) for part in narrow)
    dz = None
    if z is not None:
        raw = (after @ columns[..., None]).squeeze(-1)
        raw = raw if D is None else raw + D * x
        gate = torch.sigmoid(z)
        dy, dz = dy * z * gate, dy * raw * gate * (1 + z * (1 - gate))
    lost = dafter + dy[..., None] * columns[:, :, None]
    keep = torch.exp(dt * A)
    du = (lost @ rows[..., None]).squeeze(-1)
    to_decay = keep * (lost * h).sum((-2, -1))
    dx = dt[..., None] * du if D is None else dt[..., None] * du + D * dy
    ddt = (x * du).sum(-1) + A * to_decay
    d_rows = torch.einsum("bhp,bhpn->bhn", dt[..., None] * x, lost).unflatten(1, (-1, share)).sum(2)
    d_columns = torch.einsum("bhp,bhpn->bhn", dy, after).unflatten(1, (-1, share)).sum(2)
    sides: list[Tensor | None] = [None, None]
    if project_b is not None:
        sides = [torch.einsum("bgn,bgr->grn", part, d) for part, d in ((B, d_rows), (C, d_columns))]
        d_rows = torch.einsum("grn,bgr->bgn", project_b, d_rows)
        d_columns = torch.einsum("grn,bgr->bgn", project_c, d_columns)
    dD = None if D is None else (dy * x).sum(0)
    found = (dx, ddt, (dt * to_decay).sum(0), d_rows, d_columns, dD, keep[..., None, None] * lost, *sides, dz)
    return *(None if d is None else d.to(kind) for d, kind in zip(found, kinds, strict=True)), None


_step.register_autograd(_differentiate, setup_context=_setup)
