"""The scan with constant diagonal for tests and benchmarks."""

from __future__ import annotations

import torch
from torch import Tensor

from ssmtool_kernels.case import Case, Cost, Inputs, Shape
from ssmtool_kernels.diagonal_states import diagonal_states
from ssmtool_kernels.diagonal_states.naive import diagonal_states_naive


def _inputs(shape: Shape, generator: torch.Generator) -> Inputs:
    b, length, n = shape["B"], shape["L"], shape["N"]
    dtype = torch.complex128 if shape.get("complex") else torch.float64
    sequences = 3 if shape.get("packed") else b

    def normal(*sizes: int) -> Tensor:
        return torch.randn(sizes, dtype=dtype, generator=generator)

    direction = normal(n)
    decay = torch.exp(-(10.0 ** (-4 * torch.rand(n, dtype=torch.float64, generator=generator))))
    bounds = torch.tensor([0, length // 3, length // 3, length]) if shape.get("packed") else None
    return {
        "lam": direction / direction.abs().clamp_min(1e-6) * decay,
        "v": normal(b, length, n),
        "x0": normal(sequences, n) if shape.get("state") else None,
        "resets": torch.rand((b, length), generator=generator) < 0.1 if shape.get("resets") else None,
        "cu_seqlens": bounds,
    }


def _run(inputs: Inputs, backend: str) -> tuple[Tensor, ...]:
    return diagonal_states(**inputs, backend=backend)  # type: ignore[arg-type]


def _loop(inputs: Inputs) -> tuple[Tensor, ...]:
    lam, v = inputs["lam"], inputs["v"]
    assert lam is not None
    assert v is not None
    return diagonal_states_naive(lam, v, inputs["x0"], inputs["resets"])


def _cost(shape: Shape, scalar: int) -> Cost:
    steps = shape["B"] * shape["L"] * shape["N"]
    pairs = 2 if shape.get("complex") else 1
    return Cost(bytes=2 * pairs * steps * scalar, fma=steps * (4 if pairs == 2 else 1))


CASES = {
    "diagonal_states": Case(
        shape={"B": 8, "L": 4096, "N": 256, "complex": 1},
        on_cpu={"B": 2, "L": 1024, "N": 128},
        small=(
            {"B": 2, "L": 37, "N": 5, "complex": 0, "state": 1},
            {"B": 2, "L": 67, "N": 3, "state": 1, "resets": 1},
            {"B": 1, "L": 70, "N": 9, "packed": 1, "state": 1, "resets": 1},
            {"B": 1, "L": 1, "N": 1},
            {"B": 2, "L": 0, "N": 2, "state": 1},
        ),
        inputs=_inputs,
        run=_run,
        cost=_cost,
        peers={"torch loop": _loop},
    )
}
