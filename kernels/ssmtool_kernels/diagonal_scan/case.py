"""Diagonal scans of one input and output and of several, for tests and benchmarks."""

from __future__ import annotations

import torch
from torch import Tensor

from ssmtool_kernels.case import Case, Cost, Inputs, Shape
from ssmtool_kernels.diagonal_scan import diagonal_scan


def _inputs(shape: Shape, generator: torch.Generator) -> Inputs:
    b, systems, length, n = shape["B"], shape["H"], shape["L"], shape["N"]
    inputs, outputs = shape.get("M", 1), shape.get("P", 1)
    sequences = 3 if shape.get("packed") else b

    def normal(*sizes: int, dtype: torch.dtype = torch.complex128) -> Tensor:
        return torch.randn(sizes, dtype=dtype, generator=generator)

    phase = torch.rand((systems, n), dtype=torch.float64, generator=generator) * 3.1
    decay = torch.exp(-(10.0 ** (-4 * torch.rand((systems, n), dtype=torch.float64, generator=generator))))
    bounds = torch.tensor([0, length // 3, length // 3, length]) if shape.get("packed") else None
    return {
        "lam": torch.polar(decay, phase),
        "B": normal(systems, n, inputs),
        "C": normal(systems, outputs, n),
        "D": normal(systems, outputs, inputs, dtype=torch.float64),
        "u": normal(b, systems, length, inputs, dtype=torch.float64),
        "x0": normal(sequences, systems, n) if shape.get("state") else None,
        "resets": torch.rand((b, length), generator=generator) < 0.1 if shape.get("resets") else None,
        "cu_seqlens": bounds,
    }


def _run(inputs: Inputs, backend: str) -> tuple[Tensor, ...]:
    return diagonal_scan(**inputs, backend=backend)  # type: ignore[arg-type]


def _loop(inputs: Inputs) -> tuple[Tensor, ...]:
    """A loop of PyTorch operations; with several inputs or outputs all products are outside it."""
    lam, B, C, D, u = (inputs[name] for name in ("lam", "B", "C", "D", "u"))
    assert lam is not None
    assert B is not None
    assert C is not None
    assert D is not None
    assert u is not None
    if B.shape[2] == C.shape[1] == 1:
        x = torch.zeros_like(lam) if inputs["x0"] is None else inputs["x0"]
        b, c, steps = B[..., 0], C[:, 0], u.permute(2, 0, 1, 3).contiguous()
        outputs = torch.empty_like(steps)
        for t, now in enumerate(steps):
            x = torch.addcmul(b * now, lam, x)
            outputs[t] = torch.linalg.vecdot(c.conj(), x).real[..., None] + D[..., 0] * now
        return outputs.permute(1, 2, 0, 3), x
    driven = u.to(lam.dtype) @ B.mT
    states = torch.empty_like(driven)
    x = torch.zeros_like(driven[:, :, 0]) if inputs["x0"] is None else inputs["x0"]
    for t in range(u.shape[2]):
        x = torch.addcmul(driven[:, :, t], lam, x)
        states[:, :, t] = x
    return (states @ C.mT).real + u @ D.mT, x


def _cost(shape: Shape, scalar: int) -> Cost:
    b, systems, length, n = shape["B"], shape["H"], shape["L"], shape["N"]
    inputs, outputs = shape.get("M", 1), shape.get("P", 1)
    steps = b * systems * length
    if inputs == outputs == 1:
        return Cost(bytes=2 * steps * scalar, fma=steps * 6 * n)
    products = 2 * n * (inputs + outputs) + inputs * outputs
    return Cost(bytes=(inputs + outputs) * steps * scalar, fma=steps * (4 * n + products))


CASES = {
    "diagonal_scan": Case(
        shape={"B": 1, "H": 256, "L": 16384, "N": 64},
        on_cpu={"H": 64, "N": 32},
        small=(
            {"B": 2, "H": 3, "L": 37, "N": 5, "state": 1},
            {"B": 2, "H": 2, "L": 67, "N": 3, "state": 1, "resets": 1},
            {"B": 1, "H": 2, "L": 70, "N": 9, "packed": 1, "state": 1, "resets": 1},
            {"B": 1, "H": 1, "L": 1, "N": 1},
            {"B": 1, "H": 1, "L": 300, "N": 17},
            {"B": 2, "H": 2, "L": 0, "N": 2, "state": 1},
        ),
        inputs=_inputs,
        run=_run,
        cost=_cost,
        peers={"torch loop": _loop},
    ),
    "diagonal_scan of several inputs": Case(
        shape={"B": 1, "H": 1, "L": 16384, "N": 256, "M": 256, "P": 256},
        on_cpu={"L": 2048, "N": 64, "M": 64, "P": 64},
        small=(
            {"B": 2, "H": 2, "L": 37, "N": 5, "M": 3, "P": 2, "state": 1},
            {"B": 2, "H": 1, "L": 67, "N": 3, "M": 2, "P": 1, "state": 1, "resets": 1},
            {"B": 1, "H": 2, "L": 70, "N": 9, "M": 1, "P": 3, "packed": 1, "state": 1, "resets": 1},
            {"B": 1, "H": 1, "L": 1, "N": 1, "M": 2, "P": 2},
            {"B": 2, "H": 1, "L": 0, "N": 2, "M": 2, "P": 2, "state": 1},
        ),
        inputs=_inputs,
        run=_run,
        cost=_cost,
        peers={"torch loop": _loop},
    ),
}
