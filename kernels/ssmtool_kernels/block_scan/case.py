"""The scan with 2 x 2 blocks for tests and benchmarks."""

from __future__ import annotations

import torch
from torch import Tensor

from ssmtool_kernels.block_scan import block_scan
from ssmtool_kernels.block_scan.naive import block_scan_naive
from ssmtool_kernels.case import Case, Cost, Inputs, Shape


def _inputs(shape: Shape, generator: torch.Generator) -> Inputs:
    b, length, n = shape["B"], shape["L"], shape["N"]
    sequences = 3 if shape.get("packed") else b

    def normal(*sizes: int) -> Tensor:
        return torch.randn(sizes, dtype=torch.float64, generator=generator)

    rotation, triangle = torch.linalg.qr(normal(n, 2, 2))
    stretch = torch.rand((n, 1, 2), dtype=torch.float64, generator=generator) ** 0.1
    bounds = torch.tensor([0, length // 3, length // 3, length]) if shape.get("packed") else None
    return {
        "A": rotation * stretch @ torch.linalg.qr(triangle)[0],
        "v": normal(b, length, n, 2),
        "x0": normal(sequences, n, 2) if shape.get("state") else None,
        "resets": torch.rand((b, length), generator=generator) < 0.1 if shape.get("resets") else None,
        "cu_seqlens": bounds,
    }


def _run(inputs: Inputs, backend: str) -> tuple[Tensor, ...]:
    return block_scan(**inputs, backend=backend)  # type: ignore[arg-type]


def _loop(inputs: Inputs) -> tuple[Tensor, ...]:
    A, v = inputs["A"], inputs["v"]
    assert A is not None
    assert v is not None
    return block_scan_naive(A, v, inputs["x0"], inputs["resets"])


def _cost(shape: Shape, scalar: int) -> Cost:
    steps = shape["B"] * shape["L"] * shape["N"]
    return Cost(bytes=4 * steps * scalar, fma=4 * steps)


CASES = {
    "block_scan": Case(
        shape={"B": 8, "L": 4096, "N": 256},
        on_cpu={"B": 2, "L": 1024, "N": 128},
        small=(
            {"B": 2, "L": 37, "N": 5, "state": 1},
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
