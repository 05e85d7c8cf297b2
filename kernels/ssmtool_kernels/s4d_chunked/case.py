"""The chunked diagonal scan for tests and benchmarks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssmtool_kernels.case import Case, Cost, Inputs, Shape
from ssmtool_kernels.convolution.lengths import fast_length
from ssmtool_kernels.s4d_chunked import s4d_chunked
from ssmtool_kernels.s4d_kernel import s4d_kernel


def _inputs(shape: Shape, generator: torch.Generator) -> Inputs:
    b, systems, length, n = (shape[letter] for letter in "BHLN")

    def normal(*sizes: int, dtype: torch.dtype = torch.complex128) -> Tensor:
        return torch.randn(sizes, dtype=dtype, generator=generator)

    memory = max(length, 2) ** torch.rand((systems, n), dtype=torch.float64, generator=generator)
    frequency = 3 * normal(systems, n, dtype=torch.float64)
    return {
        "a": torch.complex(-1 / memory, frequency).to(torch.complex64).to(torch.complex128),
        "B": normal(systems, n),
        "C": normal(systems, n),
        "D": normal(systems, dtype=torch.float64),
        "u": normal(b, systems, length, dtype=torch.float64),
        "x0": normal(b, systems, n) if shape.get("state") else None,
    }


def _run(inputs: Inputs, backend: str) -> tuple[Tensor, ...]:
    given: Any = inputs
    return s4d_chunked(**given, backend=backend)


def _fft(inputs: Inputs) -> tuple[Tensor, ...]:
    """The convolution with the whole kernel by FFT."""
    given: Any = inputs
    a, B, C, D, u = (given[name] for name in ("a", "B", "C", "D", "u"))
    length = u.shape[2]
    points = fast_length(2 * length - 1)
    spectrum = torch.fft.rfft(s4d_kernel(a, C * B, length), n=points)
    return (torch.fft.irfft(spectrum * torch.fft.rfft(u, n=points), n=points)[..., :length] + D[:, None] * u,)


def _cost(shape: Shape, scalar: int) -> Cost:
    """Of a chunk of 64 steps; float32 takes three products on tensor cores of half the speed."""
    numbers = shape["B"] * shape["H"] * shape["L"]
    return Cost(bytes=2 * numbers * scalar, tensor=numbers * (2 * 64 + 8 * shape["N"]) * (1 if scalar == 2 else 6))


CASES = {
    "s4d_chunked": Case(
        shape={"B": 8, "H": 1024, "L": 16384, "N": 32},
        on_cpu={"B": 1, "H": 64},
        small=(
            {"B": 2, "H": 2, "L": 133, "N": 5, "state": 1},
            {"B": 1, "H": 2, "L": 64 * 18, "N": 3, "state": 1},
            {"B": 1, "H": 1, "L": 192, "N": 17},
            {"B": 2, "H": 1, "L": 7, "N": 2, "state": 1},
            {"B": 1, "H": 2, "L": 0, "N": 3, "state": 1},
        ),
        inputs=_inputs,
        run=_run,
        cost=_cost,
        peers={"torch fft": _fft},
        backends=("torch", "triton"),
    )
}
