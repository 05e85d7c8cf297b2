"""In which precision a scan over a tree is computed."""

from __future__ import annotations

import torch
from torch import Tensor

from ssmtool_kernels.backends import FLOATS


def working(first: str, reference: Tensor, **others: Tensor | None) -> torch.dtype:
    """float32 for inputs in float16 and bfloat16, else their own dtype. The others may have either of the two.

    Models keep states and decays in float32 beside activations in bfloat16.

    Raises:
        ValueError: another dtype, or another device.
    """
    if reference.dtype not in FLOATS:
        raise ValueError(f"{first} is {reference.dtype}: a real floating dtype is needed")
    wide = reference.dtype if reference.dtype == torch.float64 else torch.float32
    for name, tensor in others.items():
        if tensor is None:
            continue
        if tensor.device != reference.device:
            raise ValueError(f"{name} is on {tensor.device}, {first} on {reference.device}")
        if tensor.dtype not in (reference.dtype, wide):
            raise ValueError(f"{name} is {tensor.dtype}, {first} is {reference.dtype}")
    return wide


def cast(dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
    """All of them in `dtype`."""
    return tuple(tensor.to(dtype) for tensor in tensors)
