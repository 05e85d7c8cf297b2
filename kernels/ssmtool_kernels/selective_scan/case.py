"""The selective scan for tests and benchmarks."""

from __future__ import annotations

import torch
from torch import Tensor

from ssmtool_kernels.case import Case, Cost, Inputs, Shape
from ssmtool_kernels.selective_scan import selective_scan


def _inputs(shape: Shape, generator: torch.Generator) -> Inputs:
    b, length, channels, groups, n = (shape[letter] for letter in "BLEGN")
    sequences = 3 if shape.get("packed") else b

    def normal(*sizes: int) -> Tensor:
        return torch.randn(sizes, dtype=torch.float64, generator=generator)

    def uniform(*sizes: int) -> Tensor:
        return torch.rand(sizes, dtype=torch.float64, generator=generator)

    softplus = bool(shape.get("softplus"))
    return {
        "x": normal(b, length, channels),
        "dt": normal(b, length, channels) if softplus else uniform(b, length, channels),
        "A": -torch.arange(1, n + 1, dtype=torch.float64) * (0.5 + uniform(channels, n)),
        "B": normal(b, length, groups, n),
        "C": normal(b, length, groups, n),
        "D": normal(channels) if shape.get("through") else None,
        "h0": normal(sequences, channels, n) if shape.get("state") else None,
        "z": normal(b, length, channels) if shape.get("gate") else None,
        "dt_bias": normal(channels) - 3 if softplus else None,
        "resets": uniform(b, length) < 0.1 if shape.get("resets") else None,
        "cu_seqlens": torch.tensor([0, length // 3, length // 3, length]) if shape.get("packed") else None,
    }


def _run(inputs: Inputs, backend: str) -> tuple[Tensor, ...]:
    # A bias comes with softplus in every model that has one, and so it does in these cases.
    return selective_scan(**inputs, dt_softplus=inputs["dt_bias"] is not None, backend=backend)  # type: ignore[arg-type]


def _loop(inputs: Inputs) -> tuple[Tensor, ...]:
    return _run(inputs, "naive")


def _cost(shape: Shape, scalar: int) -> Cost:
    """At N = 16 in bfloat16 a GPU is bound by exp, one per state and step, and not by memory: a smaller N is faster."""
    rows = shape["B"] * shape["L"]
    steps = rows * shape["E"]
    gate, softplus = shape.get("gate", 0), shape.get("softplus", 0)
    return Cost(
        bytes=scalar * ((3 + gate) * steps + 2 * rows * shape["G"] * shape["N"]),
        fma=4 * steps * shape["N"],
        exp=steps * (shape["N"] + gate + softplus),
    )


CASES = {
    "selective_scan": Case(
        shape={"B": 4, "L": 4096, "E": 256, "G": 1, "N": 16, "through": 1, "gate": 1, "softplus": 1},
        small=(
            {"B": 2, "L": 19, "E": 4, "G": 2, "N": 5, "state": 1},
            {"B": 1, "L": 33, "E": 35, "N": 4, "state": 1, "resets": 1, "gate": 0},
            {"B": 1, "L": 23, "E": 3, "N": 3, "packed": 1, "state": 1, "resets": 1, "softplus": 0},
            {"B": 1, "L": 1, "E": 1, "N": 1, "through": 0, "gate": 0, "softplus": 0},
            {"B": 2, "L": 0, "E": 4, "G": 2, "N": 2, "state": 1},
        ),
        inputs=_inputs,
        run=_run,
        cost=_cost,
        peers={"torch loop": _loop},
    )
}
