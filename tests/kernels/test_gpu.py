"""Every Triton kernel on a CUDA device, forward and backward, against its naive form in float64."""

from __future__ import annotations

import pytest
import torch

from ssmtool_kernels.backends import interpreting
from ssmtool_kernels.case import Case, cases, cast
from ssmtool_kernels.measure import errors, gradient_errors

pytestmark = pytest.mark.gpu

CASES = {name: case for name, case in cases().items() if "triton" in case.backends}
CUDA = torch.device("cuda")
LIMITS = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 2e-2}
LONG = {"L": 1000, "B": 2}


def shapes(case: Case) -> list[dict[str, int]]:
    """The small shapes, and one of many tiles."""
    large = {letter: min(size, LONG.get(letter, size)) for letter, size in case.shape.items()}
    return [{**case.shape, **shape} for shape in case.small] + [large]


PARAMETERS = [
    pytest.param(name, number, dtype, id=f"{name}-{number}-{str(dtype).removeprefix('torch.')}")
    for name, case in CASES.items()
    for number in range(len(case.small) + 1)
    for dtype in LIMITS
    if case.differentiable or dtype == torch.float64
]


@pytest.fixture(autouse=True)
def compiled() -> None:
    if interpreting():
        pytest.skip("TRITON_INTERPRET=1 is set")


@pytest.mark.parametrize(("name", "number", "dtype"), PARAMETERS)
def test_forward_and_backward(name: str, number: int, dtype: torch.dtype) -> None:
    case = CASES[name]
    shape = shapes(case)[number]
    inputs = case.make(shape)
    # bfloat16 inputs are rounded before the definition sees them: the kernel answers for its arithmetic alone
    rounded = cast(cast(inputs, dtype), torch.float64)
    with torch.no_grad():
        truth = case.run(rounded, "naive")
        found = case.run(cast(rounded, dtype, "cuda"), "triton")
    limit = max(LIMITS[dtype], case.tolerance if dtype == torch.float32 else 0.0)
    measured = errors(found, truth)
    assert measured.l2 <= limit
    assert measured.largest <= 10 * limit
    if case.differentiable:
        gradient = gradient_errors(case, shape, lambda given: case.run(given, "triton"), dtype, CUDA)
        assert gradient.l2 <= (2 if dtype == torch.bfloat16 else 10) * limit


@pytest.mark.parametrize("name", CASES)
def test_the_same_bits_every_time(name: str) -> None:
    case = CASES[name]
    inputs = cast(case.make(shapes(case)[-1]), torch.float32, "cuda")
    with torch.no_grad():
        first, second = (case.run(inputs, "triton") for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
