"""What tests and benchmarks need to know of an operation: how to make inputs, run it, and what it costs.

Every folder of operations has a `case.py` with CASES, name -> Case. The conformance suite runs every case on every
backend; `ssmtool bench` times it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor

Shape = Mapping[str, int]
Inputs = dict[str, "Tensor | None"]


@dataclass(frozen=True)
class Cost:
    """What one forward pass needs at least.

    Attributes:
        bytes: read and written once.
        fma: float32 multiply-adds and other instructions outside tensor cores.
        exp: exponentials and other special functions.
        tensor: floating-point operations on tensor cores.
    """

    bytes: float
    fma: float = 0.0
    exp: float = 0.0
    tensor: float = 0.0


@dataclass(frozen=True)
class Case:
    """One operation.

    Attributes:
        shape: letters and their sizes for the benchmark; a letter is a capital. Words in small letters are options, 0
            or 1, such as "resets".
        on_cpu: sizes that replace those of `shape` on the CPU, where a GPU's would take minutes.
        small: shapes for tests, odd ones among them; merged over the others of `shape`.
        inputs: (shape, generator) -> float64 or complex128 tensors on the CPU, contractive, by argument name; integers
            and masks keep their dtype in every run.
        run: (inputs, backend) -> outputs.
        cost: (shape, bytes per real number) -> Cost.
        sweep: the letter whose size a reduction makes smaller.
        peers: name -> function of the inputs that computes the same in another way people use.
        backends: those that exist besides naive.
        tolerance: relative L2 error allowed in float32 against float64.
        differentiable: whether gradients exist, and are compared.
    """

    shape: Shape
    small: tuple[Shape, ...]
    inputs: Callable[[Shape, torch.Generator], Inputs]
    run: Callable[[Inputs, str], tuple[Tensor, ...]]
    cost: Callable[[Shape, int], Cost]
    on_cpu: Shape = field(default_factory=dict)
    sweep: str = "N"
    peers: Mapping[str, Callable[[Inputs], tuple[Tensor, ...]]] = field(default_factory=dict)
    backends: tuple[str, ...] = ("torch", "cpu", "triton")
    tolerance: float = 1e-5
    differentiable: bool = True

    def sizes(self, device: str) -> Shape:
        """What the benchmark measures on a kind of device."""
        return {**self.shape, **self.on_cpu} if device == "cpu" else self.shape

    def make(self, shape: Shape, seed: int = 0) -> Inputs:
        """Inputs in float64 for `shape` merged over the case's own."""
        return self.inputs({**self.shape, **shape}, torch.Generator().manual_seed(seed))


def cases() -> dict[str, Case]:
    """Every case by name."""
    found: dict[str, Case] = {}
    for path in sorted(Path(__file__).parent.glob("*/case.py")):
        found |= import_module(f"{__package__}.{path.parent.name}.case").CASES
    return found


COMPLEX = {torch.float64: torch.complex128, torch.float32: torch.complex64}


def cast(inputs: Inputs, dtype: torch.dtype, device: str = "cpu") -> Inputs:
    """The inputs with real tensors as `dtype`, complex ones as its counterpart, on `device`."""

    def convert(tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        if tensor.is_complex():
            return tensor.to(device, COMPLEX.get(dtype, torch.complex64))
        return tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)

    return {name: convert(tensor) for name, tensor in inputs.items()}
