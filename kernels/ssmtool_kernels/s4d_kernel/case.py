"""The kernel of a diagonal system for tests and benchmarks."""

from __future__ import annotations

import torch
from torch import Tensor

from ssmtool_kernels.case import Case, Cost, Inputs, Shape
from ssmtool_kernels.s4d_kernel import s4d_kernel


def _inputs(shape: Shape, generator: torch.Generator) -> Inputs:
    """Decays from one step to the whole length, all frequencies; the length is that of `time`.

    All of them are numbers of single precision: rounded, 3 rad per step would be off by length * 1e-7 rad.
    """
    systems, length, n = shape["H"], shape["L"], shape["N"]
    memory = length ** torch.rand((systems, n), dtype=torch.float64, generator=generator)
    frequency = 3 * torch.randn((systems, n), dtype=torch.float64, generator=generator)
    return {
        "a": torch.complex(-1 / memory, frequency).to(torch.complex64).to(torch.complex128),
        "c": torch.randn((systems, n), dtype=torch.complex128, generator=generator),
        "time": torch.zeros(length, dtype=torch.bool),
    }


def _run(inputs: Inputs, backend: str) -> tuple[Tensor, ...]:
    a, c, time = inputs["a"], inputs["c"], inputs["time"]
    assert a is not None
    assert c is not None
    assert time is not None
    return (s4d_kernel(a, c, time.shape[0], backend=backend),)


def _direct(inputs: Inputs) -> tuple[Tensor, ...]:
    """One exponential for every system, mode and step, as layers in PyTorch do it; a few systems at a time."""
    a, c, time = inputs["a"], inputs["c"], inputs["time"]
    assert a is not None
    assert c is not None
    assert time is not None
    steps = torch.arange(time.shape[0], dtype=a.real.dtype, device=a.device)
    parts = zip(a.split(16), c.split(16), strict=True)
    return (torch.cat([torch.einsum("hn,hnl->hl", w, torch.exp(p[..., None] * steps)).real for p, w in parts]),)


def _cost(shape: Shape, scalar: int) -> Cost:
    numbers = shape["H"] * shape["L"]
    return Cost(bytes=numbers * scalar, fma=2 * shape["N"] * numbers)


CASES = {
    "s4d_kernel": Case(
        shape={"H": 1024, "L": 16384, "N": 32},
        on_cpu={"H": 64},
        small=(
            {"H": 2, "L": 37, "N": 5},
            {"H": 1, "L": 4200, "N": 17},
            {"H": 3, "L": 1, "N": 1},
            {"H": 2, "L": 0, "N": 3},
        ),
        inputs=_inputs,
        run=_run,
        cost=_cost,
        peers={"direct exp": _direct},
        backends=("torch", "triton"),
    )
}
