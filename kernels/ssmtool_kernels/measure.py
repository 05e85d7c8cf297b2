"""An operation against its definition in float64, and against the clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ssmtool_kernels.case import Case, Inputs, Shape, cast
from ssmtool_kernels.floors import floor_seconds

GRADIENT_STEPS, GRADIENT_BATCH = 256, 2  # gradients of the definition keep every step: they are checked on less
BUDGET = 2.0  # seconds of repeated runs per measurement, at most
LEAST = 0.1  # seconds of repeated runs, where they are short: threads take a while to be awake
RUNS, MOST = 5, 100


@dataclass(frozen=True)
class Errors:
    """Relative errors against float64: of the whole in the L2 norm, and the largest over the largest number."""

    l2: float
    largest: float


@dataclass(frozen=True)
class Timing:
    """One implementation of one operation.

    Attributes:
        name: a backend, or a peer.
        peer: whether it is another program's way.
        forward: seconds, least of several runs.
        backward: seconds of backward alone; None if it was not run.
        errors: of the outputs. gradients: of the gradients, on shorter inputs; None if they were not taken.
        floor: share of the device's floor that the forward pass reaches, None where there is none.
    """

    name: str
    peer: bool
    forward: float
    backward: float | None
    errors: Errors
    gradients: Errors | None
    floor: float | None


def errors(found: tuple[Tensor, ...], truth: tuple[Tensor, ...]) -> Errors:
    """The worst over several tensors; infinite for NaN."""
    l2 = largest = 0.0
    for a, b in zip(found, truth, strict=True):
        if b.numel() == 0:
            continue
        b = b.detach()
        difference = (a.detach().to(b.device, b.dtype) - b).abs()
        l2 = _worse(l2, float(difference.norm()), float(b.norm()))
        largest = _worse(largest, float(difference.max()), float(b.abs().max()))
    return Errors(l2, largest)


def _worse(before: float, difference: float, scale: float) -> float:
    error = difference / scale if scale else difference
    return max(before, error if error == error else float("inf"))


def definition(case: Case, shape: Shape, dtype: torch.dtype) -> tuple[Inputs, tuple[Tensor, ...]]:
    """Inputs in float64, already rounded to `dtype`, and what the naive form makes of them.

    A kernel answers for its own arithmetic: what the rounding of a slow pole does over thousands of steps is not its
    error.
    """
    inputs = _rounded(case.make(shape), dtype)
    with torch.no_grad():
        return inputs, case.run(inputs, "naive")


def _rounded(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    return cast(cast(inputs, dtype), torch.float64)


def timing(
    case: Case,
    shape: Shape,
    truth: tuple[Inputs, tuple[Tensor, ...]],
    name: str,
    dtype: torch.dtype,
    device: torch.device,
    backward: bool,
) -> Timing:
    """Time one backend or peer, and hold it against the definition.

    Args:
        case: the operation.
        shape: sizes; letters that are left out are the case's own.
        truth: from `definition`, for the same shape and dtype.
        name: a backend, or one of the case's peers, which may leave later outputs out.
        dtype: of the inputs, complex ones its counterpart.
        device: where to run.
        backward: also time and check gradients.
    """
    peer = name in case.peers
    run: Callable[[Inputs], tuple[Tensor, ...]]
    run = case.peers[name] if peer else lambda given: case.run(given, name)
    inputs = cast(truth[0], dtype, str(device))
    with torch.no_grad():
        first = run(inputs)  # also compiles
        found = errors(first, truth[1][: len(first)] if peer else truth[1])
        del first
        seconds = best(lambda: run(inputs), device)
    behind = gradient = None
    if backward and case.differentiable:
        behind = _backward_seconds(run, inputs, device)
        gradient = gradient_errors(case, shape, run, dtype, device)
    full = {**case.shape, **shape}
    least = None
    if device.type == "cuda":
        least = floor_seconds(case.cost(full, torch.finfo(dtype).bits // 8), torch.cuda.get_device_name(device))
    return Timing(name, peer, seconds, behind, found, gradient, None if least is None else least / seconds)


def gradient_errors(
    case: Case,
    shape: Shape,
    run: Callable[[Inputs], tuple[Tensor, ...]],
    dtype: torch.dtype,
    device: torch.device,
) -> Errors:
    """Errors of the gradients of a random functional of the outputs, on inputs of at most 2 sequences of 256 steps."""
    full = {**case.shape, **shape}
    short = {
        **full,
        **{k: min(full[k], most) for k, most in (("L", GRADIENT_STEPS), ("B", GRADIENT_BATCH)) if k in full},
    }
    exact = _rounded(case.make(short), dtype)
    expected = _gradients(lambda given: case.run(given, "naive"), exact)
    found = _gradients(run, cast(exact, dtype, str(device)))
    pairs = [(found[k], truth) for k, truth in expected.items() if truth is not None and found[k] is not None]
    return errors(tuple(a for a, _ in pairs if a is not None), tuple(b for _, b in pairs))


def _gradients(run: Callable[[Inputs], tuple[Tensor, ...]], inputs: Inputs) -> Mapping[str, Tensor | None]:
    leaves = _leaves(inputs)
    outputs = run({**inputs, **leaves})
    found = torch.autograd.grad(_functional(outputs), list(leaves.values()), allow_unused=True)
    return dict(zip(leaves, found, strict=True))


def _leaves(inputs: Inputs) -> dict[str, Tensor]:
    return {
        name: tensor.detach().clone().requires_grad_()
        for name, tensor in inputs.items()
        if tensor is not None and (tensor.is_floating_point() or tensor.is_complex())
    }


def _functional(outputs: tuple[Tensor, ...]) -> Tensor:
    """A fixed random linear functional, the same for every dtype and device."""
    generator = torch.Generator().manual_seed(7)
    total = []
    for output in outputs:
        part = output.real + 0.5 * output.imag if output.is_complex() else output
        weights = torch.randn(part.shape, generator=generator, dtype=torch.float64).to(part.device)
        total.append((part.to(torch.promote_types(part.dtype, torch.float32)) * weights.to(part.dtype)).sum())
    return torch.stack(total).sum()


def _backward_seconds(run: Callable[[Inputs], tuple[Tensor, ...]], inputs: Inputs, device: torch.device) -> float:
    leaves = _leaves(inputs)
    loss = _functional(run({**inputs, **leaves}))
    wanted = list(leaves.values())
    return best(lambda: torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True), device)


def best(run: Callable[[], object], device: torch.device) -> float:
    """Least wall time in seconds of several runs after a first one: 5, more where they are short, fewer where long."""

    def once() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        begin = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - begin

    first = once()
    if first > BUDGET:
        return first
    least, spent = first, 0.0
    for done in range(1, MOST + 1):
        took = once()
        least, spent = min(least, took), spent + took
        if spent > BUDGET or (done >= RUNS and spent > LEAST):
            break
    return least
