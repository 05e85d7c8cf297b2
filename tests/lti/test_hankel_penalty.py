"""Penalties on Hankel singular values: values from the singular values themselves, gradients from finite differences.

Central differences in float64 (steps of 1e-6): rounding 1e-10 of the value, so 1e-5 relative with 1e-6 absolute. Where
singular values span fourteen decades the differences are taken in 60 digits with steps of 1e-12, which leaves the
rounding of the gradient itself: 1e-9 of it.
"""

from __future__ import annotations

import math
from dataclasses import replace

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor

from ssmtool.errors import UnstableError, UsageError
from ssmtool.lti.hankel import hankel_singular_values
from ssmtool.lti.hankel_penalty import hankel_penalty
from ssmtool.lti.spectral_functions import KINDS
from ssmtool.lti.systems import DiagonalSystem
from tests.lti import reference, samples

SCALE, ORDER = 0.3, 2


def identical_channels() -> DiagonalSystem:
    """The same single-input system twice in one: every singular value is double."""
    one = samples.ring(1, 3, seed=5)
    zero = np.zeros((3, 1))
    B = np.block([[one.B[0], zero], [zero, one.B[0]]])
    C = np.block([[one.C[0], zero.T], [zero.T, one.C[0]]])
    return samples.diagonal(np.tile(one.a[0], 2), B, C)


def nearly_real(inputs: int) -> DiagonalSystem:
    """Real poles in slots for pairs: with complex weights, with real ones, and one off the axis by 1e-6."""
    system = samples.ring(1, 5, inputs, inputs, seed=2)
    system.a[0, :3] = system.a[0, :3].real
    system.a[0, 2] += 1e-6j
    system.B[0, 1], system.C[0, :, 1] = system.B[0, 1].real, system.C[0, :, 1].real
    return system


def with_silent_slots(inputs: int) -> DiagonalSystem:
    """One slot that nothing reaches, one that nothing sees, one that is both."""
    system = samples.ring(2, 6, inputs, inputs, seed=3)
    system.B[0, 1] = system.C[0, :, 2] = 0
    system.B[1, 3], system.C[1, :, 3] = 0, 0
    return system


SYSTEMS = {
    "one input, one output": samples.ring(2, 4),
    "one state pair": samples.ring(1, 1),
    "several inputs and outputs": samples.ring(2, 3, 2, 3),
    "one input, several outputs": samples.ring(1, 3, 1, 3),
    "many inputs": samples.ring(1, 3, 17, 16),
    "real poles in pairs' slots": nearly_real(1),
    "real poles, several inputs": nearly_real(2),
    "silent slots": with_silent_slots(1),
    "silent slots, several inputs": with_silent_slots(2),
    "identical channels": identical_channels(),
    "slow and crowded": samples.s4d_inv(6, 0.05),
}
REAL = {"one input": samples.real_stored(2, 4), "several inputs": samples.real_stored(2, 4, 2, 3)}

each_system = pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS.keys())
each_kind = pytest.mark.parametrize("kind", KINDS)


def tensors(system: DiagonalSystem) -> tuple[Tensor, Tensor, Tensor]:
    a, B, C = (torch.tensor(x, dtype=torch.complex128, requires_grad=True) for x in (system.a, system.B, system.C))
    return a, B, C


def penalty(a: Tensor, B: Tensor, C: Tensor, kind: str, real: bool = False) -> Tensor:
    return hankel_penalty(a, B, C, kind, real, scale=SCALE, order=ORDER)


def gradients(system: DiagonalSystem, kind: str = "sum") -> list[Tensor]:
    inputs = tensors(system)
    penalty(*inputs, kind, system.real).backward()
    return [x.grad for x in inputs if x.grad is not None]


def by_definition(sigma: np.ndarray, kind: str) -> float:
    """The penalty of one system's singular values, as docs/training.md writes it."""
    if kind == "log":
        return sum(math.log(1 + x / SCALE) for x in sigma)
    if kind == "tail":
        return float(sigma[ORDER:].sum())
    if kind == "entropy":
        share = sigma[sigma > 0] / sigma.sum()
        return float(-(share * np.log(share)).sum())
    return float(sigma.sum())


@each_kind
@pytest.mark.parametrize("system", [*SYSTEMS.values(), *REAL.values()], ids=[*SYSTEMS, *REAL])
def test_values_are_those_of_the_singular_values(system: DiagonalSystem, kind: str) -> None:
    expected = sum(by_definition(sigma, kind) for sigma in hankel_singular_values(system).sigma)
    # both are good to some hundred roundings of the largest value; the logarithm's slope is at most 1 / SCALE
    assert penalty(*tensors(system), kind, system.real).item() == pytest.approx(expected, rel=1e-11)


@each_kind
@each_system
def test_gradient_against_finite_differences(system: DiagonalSystem, kind: str) -> None:
    inputs = tensors(system)
    # The value has a kink where a silent slot starts to sound; a short step keeps its second-order part small.
    assert torch.autograd.gradcheck(lambda a, B, C: penalty(a, B, C, kind), inputs, eps=1e-7, atol=1e-5, rtol=1e-5)


@each_kind
@pytest.mark.parametrize("system", REAL.values(), ids=REAL.keys())
def test_gradient_of_real_states(system: DiagonalSystem, kind: str) -> None:
    angle = torch.tensor(system.a.imag)
    inputs = [torch.tensor(x.real, requires_grad=True) for x in (system.a, system.B, system.C)]

    def value(x: Tensor, B: Tensor, C: Tensor) -> Tensor:
        return penalty(torch.complex(x, angle), B.to(torch.complex128), C.to(torch.complex128), kind, real=True)

    assert torch.autograd.gradcheck(value, inputs, eps=1e-6, atol=1e-6, rtol=1e-5)


def crowded(inputs: int, spread: float) -> DiagonalSystem:
    system = samples.ring(1, 6, inputs, inputs, seed=1)
    system.a[0] = -0.05 + 1j * np.linspace(0.1, 0.1 + spread, 6)
    return system


def faint() -> DiagonalSystem:
    """Slots whose weights are 1e-13, 1e-9 and 1e-14 of the others'."""
    system = samples.ring(1, 5, 3, 3, seed=1)
    system.C[0, :, 3] *= 1e-13
    system.C[0, :, 4] *= 1e-9
    system.B[0, 2] *= 1e-14
    return system


@pytest.mark.parametrize(
    ("system", "smallest"),
    [(crowded(1, 0.05), 1e-8), (crowded(2, 2e-3), 1e-10), (crowded(2, 1e-4), 1e-15), (faint(), 1e-14)],
    ids=["one input", "two inputs", "two inputs, close poles", "faint slots"],
)
@pytest.mark.parametrize("kind", ["sum", "log"])
def test_gradient_keeps_its_digits_over_many_decades(system: DiagonalSystem, smallest: float, kind: str) -> None:
    sigma = reference.hankel_singular_values(system, 60)
    assert sigma[-1] < 100 * smallest * sigma[0]
    rng = np.random.default_rng(0)
    parts = (system.a, system.B, system.C)
    step = [(rng.standard_normal(x.shape) + 1j * rng.standard_normal(x.shape)) * np.abs(x) for x in parts]
    slope = sum(float((g.numpy().conj() * d).sum().real) for g, d in zip(gradients(system, kind), step, strict=True))
    # values below 1e-13 sigma_1 are left out of the gradient; here that costs less than the tolerance
    assert slope == pytest.approx(exact_slope(system, step, kind), rel=1e-6 if kind == "log" else 1e-9)


def exact_slope(system: DiagonalSystem, step: list[np.ndarray], kind: str) -> float:
    with mpmath.workdps(60):
        h = mpmath.mpf(10) ** -12
        n = system.slots
        mirror = mpmath.diag([1] * n + [-1] * n)

        def moved(x: complex, d: complex, by):
            return mpmath.mpc(x.real, x.imag) + by * mpmath.mpc(d.real, d.imag)

        def value(by):
            poles = [mpmath.exp(moved(x, d, by)) for x, d in zip(system.a[0], step[0][0], strict=True)]
            rows, columns = (
                [[moved(x, d, by) for x, d in zip(*pair, strict=True)] for pair in zip(X, D, strict=True)]
                for X, D in ((system.B[0], step[1][0]), (system.C[0].T, step[2][0].T))
            )
            L, R = (mpmath.cholesky(reference._gramian(poles, x, [False] * n)) for x in (rows, columns))
            sigma = mpmath.svd_r((mirror * R).T * L, compute_uv=False)
            return sum(sigma) if kind == "sum" else sum(mpmath.log(1 + x / mpmath.mpf(SCALE)) for x in sigma)

        return float((value(h) - value(-h)) / (2 * h))


@each_kind
@each_system
def test_scaling_the_input_scales_the_singular_values(system: DiagonalSystem, kind: str) -> None:
    """Euler: <dF/dB, B> = <dF/dC, C> = sum f'(sigma_i) sigma_i, whatever basis of a cluster the tail cuts through."""
    _, gB, gC = gradients(system, kind)
    slopes = {"sum": lambda s: s.sum(), "tail": lambda s: s[ORDER:].sum(), "entropy": lambda s: 0.0}
    slopes["log"] = lambda s: (s / (SCALE + s)).sum()
    sigma = hankel_singular_values(system).sigma
    expected = sum(float(slopes[kind](s)) for s in sigma)
    for gradient, x in ((gB, system.B), (gC, system.C)):
        found = float((gradient.numpy().conj() * x).sum().real)
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-10)


def test_a_tail_that_cuts_a_cluster_has_a_finite_subgradient() -> None:
    inputs = tensors(identical_channels())
    hankel_penalty(*inputs, "tail", order=1).backward()
    assert all(x.grad is not None and torch.isfinite(torch.view_as_real(x.grad)).all() for x in inputs)


@pytest.mark.parametrize("inputs", [1, 2])
@each_kind
def test_a_system_that_passes_nothing_has_no_penalty_and_no_gradient(inputs: int, kind: str) -> None:
    system = samples.ring(1, 4, inputs, inputs)
    system.B[:] = 0
    assert penalty(*tensors(system), kind).item() == 0
    assert all((g == 0).all() for g in gradients(system, kind))


@pytest.mark.parametrize("inputs", [1, 2])
def test_weights_of_any_magnitude(inputs: int) -> None:
    """B times 1e30 and C times 1e-30 slot by slot are the same system; gradients scale the other way."""
    plain = samples.ring(1, 4, inputs, inputs)
    size = 10.0 ** np.array([30, -30, 0, 12])
    scaled = replace(plain, B=plain.B * size[:, None], C=plain.C / size)
    for g, s, factor in zip(gradients(plain), gradients(scaled), (1.0, 1 / size[:, None], size), strict=True):
        np.testing.assert_allclose(s.numpy(), g.numpy() * factor, rtol=1e-10)


def test_systems_of_a_batch_do_not_see_each_other() -> None:
    system = samples.ring(70, 24)
    whole = gradients(system)
    for s in (0, 33, 69):
        for g, one in zip(whole, gradients(samples.pick(system, s)), strict=True):
            np.testing.assert_allclose(g[s].numpy(), one[0].numpy(), rtol=1e-9, atol=1e-12 * one.abs().max().item())


def test_single_precision_comes_back_in_single_precision() -> None:
    double = tensors(samples.ring(1, 4, 2, 2))
    single = tuple(x.detach().to(torch.complex64).requires_grad_() for x in double)
    hankel_penalty(single[0], single[1], single[2]).backward()
    hankel_penalty(*double).backward()
    for x, y in zip(single, double, strict=True):
        assert x.grad is not None
        assert y.grad is not None
        assert x.grad.dtype == torch.complex64
        np.testing.assert_allclose(x.grad.numpy(), y.grad.numpy(), rtol=1e-4)  # 6e-8 times 1 / (1 - |lambda|)


def test_bad_input_is_refused() -> None:
    a, B, C = tensors(samples.ring(2, 4))
    with pytest.raises(UnstableError, match="3 of 8 stored eigenvalues"):
        hankel_penalty(torch.complex(torch.where(torch.arange(8).reshape(2, 4) < 3, 0.0, a.real), a.imag), B, C)
    with pytest.raises(UsageError, match="8 numbers of B are NaN"):
        hankel_penalty(a, B * float("nan"), C)
    with pytest.raises(UsageError, match="no penalty 'max'"):
        hankel_penalty(a, B, C, "max")
    for scale in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="scale"):
            hankel_penalty(a, B, C, "log", scale=scale)
    for order in (-1, 1.5, float("nan")):
        with pytest.raises(UsageError, match="order"):
            hankel_penalty(a, B, C, "tail", order=order)
