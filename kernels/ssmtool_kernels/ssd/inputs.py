"""Inputs of the scan and of the step: what is wrong with them, and their form for the kernels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssmtool_kernels.checks import same_kind, shaped

HALVES = (torch.float16, torch.bfloat16)


def working(tensor: Tensor) -> torch.dtype:
    """float32 for float16 and bfloat16, else the tensor's own."""
    return torch.float32 if tensor.dtype in HALVES else tensor.dtype


def check(
    along: tuple[int, ...],
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    project_b: Tensor | None,
    project_c: Tensor | None,
    dt_bias: Tensor | None,
    dt_limit: tuple[float, float],
) -> int:
    """Everything but the state, with leading axes `along`; returns the number of states the scan has.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit.
    """
    heads, width = x.shape[-2:]
    groups, wide = B.shape[-2:]
    lead = "b, L" if len(along) == 2 else "b"
    if B.ndim != len(along) + 2 or groups < 1 or heads % groups:
        raise ValueError(
            f"B has shape {tuple(B.shape)}: ({lead}, G, N) with G a divisor of the {heads} heads is needed"
        )
    shaped("dt", dt, *along, heads, letters=f"({lead}, H)")
    shaped("A", A, heads, letters="(H,)")
    shaped("B", B, *along, groups, wide, letters=f"({lead}, G, N)")
    shaped("C", C, *along, groups, wide, letters=f"({lead}, G, N)")
    shaped("z", z, *x.shape, letters=f"({lead}, H, P)")
    shaped("dt_bias", dt_bias, heads, letters="(H,)")
    if D is not None and tuple(D.shape) not in ((heads, width), (heads, 1)):
        raise ValueError(f"D has shape {tuple(D.shape)} instead of {(heads, width)} = (H, P) or {(heads, 1)}")
    if (project_b is None) != (project_c is None):
        raise ValueError("project_b and project_c are given together or not at all")
    same_kind("x", x, B=B, C=C, z=z)
    parameters(x, dt=dt, A=A, D=D, dt_bias=dt_bias, project_b=project_b, project_c=project_c)
    if not 0 <= dt_limit[0] <= dt_limit[1] or math.isinf(dt_limit[0]):
        raise ValueError(f"dt_limit is {dt_limit}: two numbers from 0 upwards, the first not above the second, needed")
    if project_b is None or project_c is None:
        return wide
    kept = project_b.shape[1] if project_b.ndim == 3 else 0
    shaped("project_b", project_b, groups, kept, wide, letters="(G, r, N)")
    shaped("project_c", project_c, groups, kept, wide, letters="(G, r, N)")
    return kept


def parameters(x: Tensor, **tensors: Tensor | None) -> None:
    """Step sizes, weights and states: as x is, or float32 beside a half-precision x.

    Raises:
        ValueError: another dtype or device.
    """
    for name, tensor in tensors.items():
        if tensor is not None and not (x.dtype in HALVES and tensor.dtype == torch.float32):
            same_kind("x", x, **{name: tensor})


def feedthrough(D: Tensor | None, heads: int, width: int) -> Tensor | None:
    """D as (H, P)."""
    return None if D is None else D.expand(heads, width)
