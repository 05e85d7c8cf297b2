"""The scan of Mamba-2 and its single step for tests and benchmarks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssmtool_kernels.case import Case, Cost, Inputs, Shape
from ssmtool_kernels.ssd import ssd, ssd_chunked, ssd_step

TILE = 128  # steps per tile for which the cost of the scan on tensor cores is stated
SMALL: tuple[Shape, ...] = (
    {"B": 2, "L": 34, "H": 2, "P": 6, "G": 2, "N": 5, "state": 1, "gate": 1, "softplus": 1},
    {"B": 1, "L": 70, "H": 3, "P": 17, "G": 1, "N": 16, "state": 1, "resets": 1},
    {"B": 1, "L": 71, "H": 2, "P": 4, "G": 1, "N": 3, "packed": 1, "state": 1, "resets": 1, "softplus": 1},
    {"B": 1, "L": 33, "H": 4, "P": 5, "G": 2, "N": 7, "R": 3, "projected": 1, "state": 1, "gate": 1},
    {"B": 1, "L": 1, "H": 1, "P": 1, "G": 1, "N": 1},
    {"B": 2, "L": 0, "H": 2, "P": 2, "G": 1, "N": 2, "state": 1, "gate": 1},
)


def _inputs(shape: Shape, generator: torch.Generator) -> Inputs:
    b, length, heads, width, groups, n = (shape[letter] for letter in "BLHPGN")
    kept = shape["R"] if shape.get("projected") else n

    def normal(*sizes: int) -> Tensor:
        return torch.randn(sizes, dtype=torch.float64, generator=generator)

    def uniform(*sizes: int) -> Tensor:
        return torch.rand(sizes, dtype=torch.float64, generator=generator)

    softplus = bool(shape.get("softplus"))
    return {
        "x": normal(b, length, heads, width),
        "dt": normal(b, length, heads) if softplus else 0.01 + 0.5 * uniform(b, length, heads),
        "A": -0.1 - 3 * uniform(heads),
        "B": normal(b, length, groups, n),
        "C": normal(b, length, groups, n),
        "D": normal(heads, 1),
        "h0": normal(3 if shape.get("packed") else b, heads, width, kept) if shape.get("state") else None,
        "z": normal(b, length, heads, width) if shape.get("gate") else None,
        "dt_bias": normal(heads) - 1 if softplus else None,
        "project_b": normal(groups, kept, n) / n**0.5 if shape.get("projected") else None,
        "project_c": normal(groups, kept, n) / n**0.5 if shape.get("projected") else None,
        "resets": uniform(b, length) < 0.1 if shape.get("resets") else None,
        "cu_seqlens": torch.tensor([0, length // 3, length // 3, length]) if shape.get("packed") else None,
    }


def _run(inputs: Inputs, backend: str) -> tuple[Tensor, ...]:
    given: dict[str, Any] = inputs
    return ssd(**given, dt_softplus=given["dt_bias"] is not None, backend=backend)


def _step_inputs(shape: Shape, generator: torch.Generator) -> Inputs:
    whole = _inputs({**shape, "L": 1, "state": 1, "packed": 0, "resets": 0}, generator)
    now = {name: whole[name][:, 0] for name in ("x", "dt", "B", "C", "z") if whole[name] is not None}  # type: ignore[index]
    kept = ("A", "D", "dt_bias", "project_b", "project_c")
    return {"z": None, **now, **{name: whole[name] for name in kept}, "h": whole["h0"]}


def _step(inputs: Inputs, backend: str) -> tuple[Tensor, ...]:
    given: dict[str, Any] = inputs
    return ssd_step(**given, dt_softplus=given["dt_bias"] is not None, backend=backend)


def _chunked(inputs: Inputs) -> tuple[Tensor, ...]:
    given: dict[str, Any] = inputs
    return ssd_chunked(*(given[name] for name in ("x", "dt", "A", "B", "C", "D", "h0")))


def _cost(shape: Shape, scalar: int) -> Cost:
    """Every tensor once; products of the tiles: C B^T, its weights with x, the state in and the state out."""
    heads, width, groups = shape["H"], shape["P"], shape["G"]
    n = shape["R"] if shape.get("projected") else shape["N"]
    steps = shape["B"] * shape["L"]
    traffic = steps * scalar * (2 * heads * width + 2 * groups * shape["N"]) + 4 * steps * heads
    flops = 2 * steps * heads * (TILE * n * groups / heads + TILE * width + 2 * width * n)
    return Cost(bytes=traffic, fma=steps * heads * TILE, exp=steps * heads * TILE, tensor=flops)


def _step_cost(shape: Shape, scalar: int) -> Cost:
    n = shape["R"] if shape.get("projected") else shape["N"]
    numbers = shape["B"] * shape["H"] * shape["P"] * n
    return Cost(bytes=2 * scalar * numbers, fma=3 * numbers)


CASES = {
    "ssd": Case(
        shape={"B": 8, "L": 4096, "H": 64, "P": 64, "G": 1, "N": 128},
        on_cpu={"B": 1, "L": 2048, "H": 8},
        small=SMALL,
        inputs=_inputs,
        run=_run,
        cost=_cost,
        peers={
            "torch chunked": _chunked,
            "torch loop": lambda inputs: _run(inputs, "naive"),
        },
    ),
    "ssd_step": Case(
        shape={"B": 128, "H": 64, "P": 64, "G": 1, "N": 128},
        on_cpu={"B": 16, "H": 8},
        small=(
            {"B": 2, "H": 4, "P": 6, "G": 2, "N": 5, "gate": 1, "softplus": 1},
            {"B": 3, "H": 3, "P": 17, "G": 1, "N": 16},
            {"B": 2, "H": 4, "P": 9, "G": 2, "N": 7, "R": 3, "projected": 1, "gate": 1},
            {"B": 1, "H": 1, "P": 1, "G": 1, "N": 1},
        ),
        inputs=_step_inputs,
        run=_step,
        cost=_step_cost,
        peers={"torch step": lambda inputs: _step(inputs, "naive")},
    ),
}
