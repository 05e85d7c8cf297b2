"""Inputs of operations: what is wrong with them is said in one line, before a kernel reads out of bounds."""

from __future__ import annotations

import torch
from torch import Tensor


def same_kind(first: str, reference: Tensor, **others: Tensor | None) -> None:
    """Every tensor is on the device of the first and has its dtype.

    Raises:
        ValueError: one is not.
    """
    for name, tensor in others.items():
        if tensor is None:
            continue
        if tensor.device != reference.device:
            raise ValueError(f"{name} is on {tensor.device}, {first} on {reference.device}")
        if tensor.dtype != reference.dtype:
            raise ValueError(f"{name} is {tensor.dtype}, {first} is {reference.dtype}")


def shaped(name: str, tensor: Tensor | None, *sizes: int, letters: str = "") -> None:
    """A tensor (None passes) has this shape; `letters` says what it is made of, such as "(b, L, n)".

    Raises:
        ValueError: it has not.
    """
    if tensor is not None and tuple(tensor.shape) != sizes:
        said = f" = {letters}" if letters else ""
        raise ValueError(f"{name} has shape {tuple(tensor.shape)} instead of {sizes}{said}")


def dimensions(name: str, tensor: Tensor, letters: str) -> torch.Size:
    """The shape of a tensor that has as many dimensions as `letters`, such as "b, L, n", names.

    Raises:
        ValueError: it has another number.
    """
    if tensor.ndim != len(letters.split(",")):
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}: ({letters}) is needed")
    return tensor.shape
