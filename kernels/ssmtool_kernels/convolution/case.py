"""The convolutions for tests and benchmarks."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmtool_kernels.case import Case, Cost, Inputs, Shape
from ssmtool_kernels.convolution import (
    diagonal_convolution,
    fft_convolution,
    kernel_convolution,
    short_convolution,
    state_passing_convolution,
)
from ssmtool_kernels.convolution.naive import diagonal_naive, kernel_naive
from ssmtool_kernels.convolution.state_passing import CHUNK
from ssmtool_kernels.s4d_kernel import s4d_kernel


def _diagonal_inputs(shape: Shape, generator: torch.Generator) -> Inputs:
    b, systems, length, n, m, p = (shape[letter] for letter in "BHLNMP")

    def normal(*sizes: int, dtype: torch.dtype = torch.complex128) -> Tensor:
        return torch.randn(sizes, dtype=dtype, generator=generator)

    memory = max(length, 2) ** torch.rand((systems, n), dtype=torch.float64, generator=generator)
    frequency = 3 * normal(systems, n, dtype=torch.float64)
    return {
        "a": torch.complex(-1 / memory, frequency).to(torch.complex64).to(torch.complex128),
        "B": normal(systems, n, m),
        "C": normal(systems, p, n),
        "D": normal(systems, p, m, dtype=torch.float64),
        "u": normal(b, systems, length, m, dtype=torch.float64),
        "x0": normal(b, systems, n) if shape.get("state") else None,
    }


def _diagonal_run(inputs: Inputs, backend: str) -> tuple[Tensor, ...]:
    """Chunks of a few steps where the length is a few chunks: every path is tried."""
    given: Any = inputs
    if backend == "naive":
        return diagonal_naive(**given)
    length = given["u"].shape[2]
    return state_passing_convolution(**given, chunk=16 if length < 1024 else CHUNK)


def _whole(inputs: Inputs) -> tuple[Tensor, ...]:
    """One FFT of the whole length with the kernel of the whole length, or of every mode; no state in or out."""
    given: Any = inputs
    a, B, C, D, u = (given[name] for name in ("a", "B", "C", "D", "u"))
    if B.shape[2] * C.shape[1] > 1:
        return (torch.stack([diagonal_convolution(a, B, C, D, part) for part in u]),)
    K = s4d_kernel(a, C[:, 0] * B[..., 0], u.shape[2])[:, None, None]
    return (torch.stack([kernel_convolution(K, part) + part * D for part in u]),)


def _diagonal_cost(shape: Shape, scalar: int) -> Cost:
    """Inputs read, outputs written; arithmetic of the FFTs not counted."""
    return Cost(bytes=shape["B"] * shape["H"] * shape["L"] * (shape["M"] + shape["P"]) * scalar)


def _kernel_inputs(shape: Shape, generator: torch.Generator) -> Inputs:
    b, channels, length, taps = (shape[letter] for letter in "BHLT")

    def normal(*sizes: int) -> Tensor:
        return torch.randn(sizes, dtype=torch.float64, generator=generator)

    return {"K": normal(channels, taps), "u": normal(b, channels, length), "tail": normal(b, channels, taps - 1)}


def _kernel_run(inputs: Inputs, backend: str) -> tuple[Tensor, ...]:
    given: Any = inputs
    if backend == "naive":
        seen = torch.cat([given["tail"], given["u"]], dim=2)
        return kernel_naive(**given), seen[..., given["u"].shape[2] :]
    return fft_convolution(**given, chunk=16 if given["u"].shape[2] < 1024 else None)


def _one_fft(inputs: Inputs) -> tuple[Tensor, ...]:
    given: Any = inputs
    K, u, tail = given["K"], given["u"], given["tail"]
    points = u.shape[2] + 2 * K.shape[1]
    y = torch.fft.irfft(torch.fft.rfft(K, n=points) * torch.fft.rfft(torch.cat([tail, u], dim=2), n=points), n=points)
    return (y[..., K.shape[1] - 1 :][..., : u.shape[2]],)


def _kernel_cost(shape: Shape, scalar: int) -> Cost:
    return Cost(bytes=2 * shape["B"] * shape["H"] * shape["L"] * scalar)


def _short_inputs(shape: Shape, generator: torch.Generator) -> Inputs:
    b, length, channels, taps = (shape[letter] for letter in "BLDK")

    def normal(*sizes: int) -> Tensor:
        return torch.randn(sizes, dtype=torch.float64, generator=generator)

    return {
        "x": normal(b, length, channels),
        "weight": normal(channels, taps),
        "bias": normal(channels) if shape.get("bias") else None,
        "tail": normal(b, taps - 1, channels) if shape.get("state") else None,
    }


def _short_run(inputs: Inputs, backend: str) -> tuple[Tensor, ...]:
    given: Any = inputs
    return short_convolution(**given, backend=backend)


def _conv1d(inputs: Inputs) -> tuple[Tensor, ...]:
    given: Any = inputs
    x, weight = given["x"], given["weight"]
    taps = weight.shape[1]
    old = x.new_zeros(x.shape[0], taps - 1, x.shape[2]) if given["tail"] is None else given["tail"]
    return (F.conv1d(torch.cat([old, x], 1).mT, weight[:, None], given["bias"], groups=x.shape[2]).mT.contiguous(),)


def _short_cost(shape: Shape, scalar: int) -> Cost:
    numbers = shape["B"] * shape["L"] * shape["D"]
    return Cost(bytes=2 * numbers * scalar, fma=numbers * shape["K"])


CASES = {
    "state_passing_convolution": Case(
        shape={"B": 8, "H": 256, "L": 16384, "N": 32, "M": 1, "P": 1},
        on_cpu={"B": 1, "H": 64},
        small=(
            {"B": 2, "H": 3, "L": 37, "N": 5, "state": 1},
            {"B": 1, "H": 2, "L": 50, "N": 4, "M": 2, "P": 2, "state": 1},
            {"B": 2, "H": 2, "L": 33, "N": 3, "M": 3, "P": 2},
            {"B": 1, "H": 1, "L": 1, "N": 1},
            {"B": 2, "H": 2, "L": 0, "N": 3, "state": 1},
        ),
        inputs=_diagonal_inputs,
        run=_diagonal_run,
        cost=_diagonal_cost,
        peers={"torch fft": _whole},
        backends=("torch",),
    ),
    "fft_convolution": Case(
        shape={"B": 8, "H": 256, "L": 65536, "T": 1024},
        on_cpu={"B": 1, "H": 16, "L": 16384, "T": 256},
        small=(
            {"B": 2, "H": 3, "L": 67, "T": 7},
            {"B": 1, "H": 2, "L": 5, "T": 33},
            {"B": 2, "H": 1, "L": 9, "T": 1},
            {"B": 1, "H": 2, "L": 0, "T": 4},
        ),
        inputs=_kernel_inputs,
        run=_kernel_run,
        cost=_kernel_cost,
        sweep="T",
        peers={"torch fft": _one_fft},
        backends=("torch",),
    ),
    "short_convolution": Case(
        shape={"B": 8, "L": 4096, "D": 4096, "K": 4, "bias": 1},
        on_cpu={"B": 2, "L": 2048, "D": 512},
        small=(
            {"B": 2, "L": 37, "D": 5, "state": 1},
            {"B": 1, "L": 2, "D": 261, "K": 4, "state": 1},
            {"B": 2, "L": 3, "D": 3, "K": 1, "bias": 0},
            {"B": 2, "L": 0, "D": 2, "state": 1},
        ),
        inputs=_short_inputs,
        run=_short_run,
        cost=_short_cost,
        sweep="D",
        peers={"conv1d": _conv1d},
        backends=("torch", "cpu", "triton"),
    ),
}
