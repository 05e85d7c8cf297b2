"""Hankel singular values for tests and benchmarks."""

from __future__ import annotations

import torch
from torch import Tensor

from ssmtool_kernels.case import Case, Cost, Inputs, Shape
from ssmtool_kernels.hankel import hankel_values

_SWEEPS = 6  # of Jacobi's method, as a rule


def _inputs(shape: Shape, generator: torch.Generator) -> Inputs:
    systems, slots = shape["S"], shape["N"]

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand((systems, slots), generator=generator, dtype=torch.float64)

    def normal() -> Tensor:
        return torch.randn((systems, slots), generator=generator, dtype=torch.complex128)

    real = torch.rand((systems, slots), generator=generator) < (0.5 if shape.get("mixed") else 0.0)
    angle = torch.where(real, torch.where(uniform(0, 1) < 0.5, 0.0, torch.pi), uniform(0.05, 3.0))
    C = normal()
    if shape.get("padded"):
        C[:, slots // 2 :] = 0
    return {"a": torch.complex(-(10 ** uniform(-2, 0)), angle), "B": normal(), "C": C, "real": real}


def _run(inputs: Inputs, backend: str) -> tuple[Tensor, ...]:
    return (hankel_values(**inputs, backend=backend),)  # type: ignore[arg-type]


def _cost(shape: Shape, scalar: int) -> Cost:
    order = 2 * shape["N"]
    # A pair of columns takes a product and a rotation: five multiply-adds per row.
    return Cost(bytes=shape["S"] * 4 * order * scalar, fma=shape["S"] * _SWEEPS * order**3 * 5 / 2)


CASES = {
    "hankel_values": Case(
        shape={"S": 1024, "N": 32},
        on_cpu={"S": 64},
        small=(
            {"S": 2, "N": 4},
            {"S": 2, "N": 3, "mixed": 1},
            {"S": 1, "N": 4, "padded": 1},
            {"S": 1, "N": 1},
            {"S": 0, "N": 2},
        ),
        inputs=_inputs,
        run=_run,
        cost=_cost,
        tolerance=1e-4,
        differentiable=False,
    )
}
