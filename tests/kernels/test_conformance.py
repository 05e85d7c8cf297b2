"""Every operation on every backend that can run here, against its naive form in float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ssmtool_kernels import native
from ssmtool_kernels.backends import interpreting
from ssmtool_kernels.case import Case, Inputs, cases, cast

CASES = cases()


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Memory that torch.empty hands out is full of NaN: what a kernel forgets to write is seen."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def combinations(dtypes: tuple[torch.dtype, ...]) -> Iterator[object]:
    for name, case in CASES.items():
        for backend in case.backends:
            for number in range(len(case.small)):
                for dtype in dtypes:
                    label = f"{name}-{backend}-{number}-{str(dtype).removeprefix('torch.')}"
                    yield pytest.param(case, backend, number, dtype, id=label)


def runnable(backend: str) -> None:
    if backend == "cpu" and native.missing():
        pytest.skip(native.missing())
    if backend == "triton" and not interpreting():
        pytest.skip("Triton's interpreter is off")


def leaves(inputs: Inputs) -> dict[str, Tensor]:
    """The differentiable ones, made so."""
    return {
        name: tensor.requires_grad_()
        for name, tensor in inputs.items()
        if tensor is not None and (tensor.is_floating_point() or tensor.is_complex())
    }


def gradients(case: Case, inputs: Inputs, backend: str) -> tuple[tuple[Tensor, ...], dict[str, Tensor | None]]:
    """Outputs, and the gradients of a fixed random functional of them; none where the case has none."""
    if not case.differentiable:
        return case.run(inputs, backend), {}
    wanted = leaves(inputs)
    outputs = case.run(inputs, backend)
    g = torch.Generator().manual_seed(7)
    loss = torch.zeros((), dtype=torch.float64)
    for output in outputs:
        weights = torch.randn(output.shape, generator=g, dtype=torch.float64)
        part = output.real + 0.5 * output.imag if output.is_complex() else output
        loss = loss + (part.double() * weights).sum()
    found = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
    return outputs, dict(zip(wanted, found, strict=True))


def distance(found: Tensor, truth: Tensor) -> float:
    """Relative L2 error; absolute where the truth is 0. NaN counts as infinite."""
    difference = float((found.detach().to(truth.dtype) - truth.detach()).abs().square().sum().sqrt())
    scale = float(truth.detach().abs().square().sum().sqrt())
    error = difference / scale if scale else difference
    return error if error == error else float("inf")


@pytest.mark.parametrize(("case", "backend", "number", "dtype"), list(combinations((torch.float64, torch.float32))))
def test_forward_and_backward_are_those_of_the_definition(
    case: Case, backend: str, number: int, dtype: torch.dtype
) -> None:
    runnable(backend)
    inputs = case.make(case.small[number])
    expected, lost = gradients(case, cast(inputs, dtype=torch.float64), "naive")
    outputs, found = gradients(case, cast(inputs, dtype), backend)
    limit = 1e-11 if dtype == torch.float64 else case.tolerance
    for output, truth in zip(outputs, expected, strict=True):
        assert output.shape == truth.shape
        assert distance(output, truth) <= limit
    for name, truth in lost.items():
        gradient = found[name]
        if truth is None or gradient is None:
            assert truth is None or not truth.any()
            assert gradient is None or not gradient.any()
            continue
        assert gradient.shape == truth.shape, name
        assert distance(gradient, truth) <= 10 * limit, name


def awkward(tensor: Tensor | None) -> Tensor | None:
    """The same numbers in memory that is not contiguous, NaN in between."""
    if tensor is None or not (tensor.is_floating_point() or tensor.is_complex()):
        return tensor
    wide = torch.full((*tensor.shape, 2), float("nan"), dtype=tensor.dtype)
    wide[..., 0] = tensor
    return wide[..., 0]


@pytest.mark.parametrize(("case", "backend", "number", "dtype"), list(combinations((torch.float32,))))
def test_forward_without_gradients(case: Case, backend: str, number: int, dtype: torch.dtype) -> None:
    """Some operations take another way where gradients are wanted: tree scans their plain PyTorch form."""
    runnable(backend)
    rounded = cast(cast(case.make(case.small[number]), dtype), torch.float64)
    with torch.no_grad():
        expected, found = case.run(rounded, "naive"), case.run(cast(rounded, dtype), backend)
    for output, truth in zip(found, expected, strict=True):
        assert output.shape == truth.shape
        assert distance(output, truth) <= case.tolerance


@pytest.mark.parametrize("backend", ["torch", "cpu", "triton"])
@pytest.mark.parametrize("name", CASES)
def test_strided_inputs_are_read_as_they_are_meant(name: str, backend: str) -> None:
    runnable(backend)
    case = CASES[name]
    if backend not in case.backends:
        pytest.skip("not a backend of this operation")
    inputs = case.make(case.small[0])
    plain = case.run(inputs, backend)
    strided = case.run({key: awkward(tensor) for key, tensor in inputs.items()}, backend)
    for a, b in zip(plain, strided, strict=True):
        assert distance(b, a) <= 1e-13


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "cpu" in case.backends])
def test_results_do_not_depend_on_the_number_of_threads(name: str) -> None:
    runnable("cpu")
    case = CASES[name]
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            outputs, lost = gradients(case, cast(case.make(case.small[0]), torch.float32), "cpu")
            found.append([*outputs, *(g for g in lost.values() if g is not None)])
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "cpu" in case.backends])
def test_torch_compile_sees_through_it(name: str) -> None:
    """One graph without breaks: fake kernels and autograd are registered."""
    runnable("cpu")
    case = CASES[name]
    number = next(i for i, shape in enumerate(case.small) if not shape.get("packed"))
    inputs = cast(case.make(case.small[number]), torch.float32)
    expected, lost = gradients(case, dict(inputs), "cpu")
    torch.compiler.reset()
    run = torch.compile(lambda given: case.run(given, "cpu"), backend="aot_eager", fullgraph=True)
    compiled = replace(case, run=lambda given, _: run(given))
    outputs, found = gradients(compiled, cast(case.make(case.small[number]), torch.float32), "cpu")
    for a, b in zip(expected, outputs, strict=True):
        assert distance(b, a) <= 1e-6
    for key, gradient in lost.items():
        if gradient is not None:
            assert distance(found[key], gradient) <= 1e-6, key  # type: ignore[arg-type]


class Call(torch.nn.Module):
    """An operation as a module, its tensors as keyword arguments."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.run = case.run

    def forward(self, **given: Tensor | None) -> tuple[Tensor, ...]:
        return self.run(given, "cpu")


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "cpu" in case.backends])
def test_torch_export_sees_one_operation(name: str) -> None:
    runnable("cpu")
    case = CASES[name]
    number = next(i for i, shape in enumerate(case.small) if not shape.get("packed"))
    inputs = cast(case.make(case.small[number]), torch.float32)
    with torch.no_grad():
        program = torch.export.export(Call(case), (), dict(inputs))
        found, expected = program.module()(**inputs), case.run(inputs, "cpu")
    assert any("ssmtool" in str(node.target) for node in program.graph.nodes)
    for a, b in zip(found, expected, strict=True):
        assert distance(a, b) <= 1e-6
