"""Input-weighted truncation: with impulses as data it is balanced truncation, with other data better on those."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssmtool.errors import CalibrationError, ReductionError, UsageError
from ssmtool.lti.driven import driven_factor
from ssmtool.lti.impulse import impulse_response
from ssmtool.lti.norms import difference, hinf_norm
from ssmtool.lti.realisation import of_dense, of_slots
from ssmtool.lti.systems import DenseSystem, DiagonalSystem, System
from ssmtool.reductions import balanced, input_weighted
from ssmtool.reductions._contract import Options, Result, Seen, Target
from tests.lti.samples import dense, diagonal, mixed, realisation, ring


def weighted(system: System, inputs: np.ndarray, target: Target | int = 4, weight: np.ndarray | None = None) -> Result:
    wanted = Target("rank", target) if isinstance(target, int) else target
    return input_weighted.reduce(system, wanted, options=Options(seen=Seen(inputs, weight)))


def noise(system: System, sequences: int = 4, length: int = 50) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((sequences, system.systems, length, system.inputs))


def impulses(system: System, length: int = 4096) -> np.ndarray:
    """One sequence per input, an impulse on it: the covariance is the reachability Gramian over their number."""
    u = np.zeros((system.inputs, system.systems, length, system.inputs))
    for i in range(system.inputs):
        u[i, :, 0, i] = 1
    return u


def outputs(system: System, inputs: np.ndarray) -> np.ndarray:
    h = impulse_response(system, inputs.shape[2])
    y = np.zeros((*inputs.shape[:3], system.outputs))
    for lag in range(inputs.shape[2]):
        y[:, :, lag:] += np.einsum("spm,kslm->kslp", h[..., lag], inputs[:, :, : inputs.shape[2] - lag])
    return y


@pytest.mark.parametrize("system", [mixed(2, 4, 2, 2), dense(2, 5, 2, 2)], ids=["diagonal", "dense"])
@pytest.mark.parametrize("shape", [(1, 3), (3, 40)])
def test_the_factor_is_that_of_the_covariance(system, shape):
    inputs = noise(system, *shape)
    on = of_slots if isinstance(system, DiagonalSystem) else of_dense
    L = driven_factor(on(system, slice(None), torch.device("cpu")), inputs).numpy()  # type: ignore[arg-type]
    for s in range(2):
        A, B, _ = realisation(system, s)
        P = np.zeros_like(A)
        for sequence in inputs[:, s]:
            x = np.zeros(len(A))
            for u in sequence:
                x = A @ x + B @ u
                P += np.outer(x, x) / shape[0] / shape[1]
        np.testing.assert_allclose(L[s] @ L[s].T, P, rtol=0, atol=1e-12 * P.max())


@pytest.mark.parametrize("system", [ring(3, 5), mixed(2, 5, 2, 3), dense(2, 6, 2, 2)], ids=["SISO", "MIMO", "dense"])
def test_impulses_give_balanced_truncation(system):
    one = weighted(system, impulses(system))
    h = impulse_response(balanced.reduce(system, Target("rank", 4)).system, 100)
    np.testing.assert_allclose(impulse_response(one.system, 100), h, rtol=0, atol=1e-9 * np.abs(h).max())


def test_slow_inputs_spend_the_states_on_slow_modes():
    """Sums of slow cosines: what matters is the response near frequency 0."""
    system = ring(3, 8, seed=4)
    rng = np.random.default_rng(0)
    steps = np.arange(400)
    frequency, phase = rng.uniform(0, 0.1, (6, 3, 5, 1)), rng.uniform(0, 6, (6, 3, 5, 1))
    u = np.cos(frequency * steps + phase).sum(axis=2)[..., None]
    train, test = u[:4], u[4:]
    exact = outputs(system, test)

    def missed(result: Result) -> np.ndarray:
        return np.square(outputs(result.system, test) - exact).sum(axis=(0, 2, 3))

    assert (missed(weighted(system, train)) < missed(balanced.reduce(system, Target("rank", 4))) / 10).all()


def test_a_weight_is_another_c():
    system = mixed(2, 5, 1, 3)
    root = np.array([[1.0, 0.2, 0.0], [0.0, 3.0, 1.0], [0.5, 0.0, 0.1]])
    weight = np.repeat((root.T @ root)[None], 2, axis=0)
    one = weighted(system, noise(system), weight=weight).system
    scaled = DiagonalSystem(system.a, system.B, root @ system.C, root @ system.D)
    two = weighted(scaled, noise(system)).system
    h = impulse_response(two, 60)
    got = np.einsum("qp,spml->sqml", root, impulse_response(one, 60))
    np.testing.assert_allclose(got, h, rtol=0, atol=1e-9 * np.abs(h).max())


def test_an_output_nobody_minds_is_not_kept():
    """Two outputs, each with modes of its own; the weight sees the first one's."""
    a = np.log([0.9, 0.8, 0.7]) + 1j * np.array([0.3, 1.0, 2.0])
    C = np.array([[1, 1, 0], [0, 0, 100]])
    system = diagonal(a, np.ones(3), C)
    result = weighted(system, noise(system), 4, np.diag([1.0, 0.0])[None])
    assert result.orders.tolist() == [4]
    np.testing.assert_allclose(np.sort(result.system.a[0].real), np.sort(a[:2].real), rtol=1e-8)
    assert weighted(system, noise(system), 4, np.zeros((1, 2, 2))).orders.tolist() == [0]


def test_few_data_limit_the_order():
    system = ring(2, 6)
    result = weighted(system, noise(system, 1, 3), 8)
    assert (result.orders <= 3).all()
    assert any("excite" in remark for remark in result.remarks)
    with pytest.raises(ReductionError, match="best reachable"):
        weighted(system, noise(system, 1, 3), Target("error", 1e-6))


def test_errors_are_met():
    system = ring(3, 6)
    result = weighted(system, noise(system), Target("error", 0.02))
    assert (hinf_norm(difference(system, result.system)) <= 0.02 * result.spectrum.sigma[:, 0]).all()


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_constant_inputs_of_one_system_say_nothing_about_it(value):
    system = ring(3, 5)
    inputs = noise(system)
    inputs[:, 1] = value
    result = weighted(system, inputs)
    assert any("1 of 3" in remark for remark in result.remarks)
    h = impulse_response(balanced.reduce(system, Target("rank", 4)).system, 60)
    got = impulse_response(result.system, 60)
    np.testing.assert_allclose(got[1], h[1], rtol=0, atol=1e-9 * np.abs(h[1]).max())
    assert np.abs(got[0] - h[0]).max() > 1e-6


@pytest.mark.parametrize("value", [0.0, -2.0])
def test_zero_variance_is_refused(value):
    system = ring(2, 3)
    with pytest.raises(CalibrationError, match="zero variance"):
        weighted(system, np.full_like(noise(system), value))


def test_data_that_do_not_fit():
    system = ring(2, 3, 1, 2)
    inputs = noise(system)
    with pytest.raises(UsageError, match="calibration"):
        input_weighted.reduce(system, Target("rank", 2))
    for wrong in (inputs[:, :1], inputs[0], inputs[..., [0, 0]], inputs[:, :, :0]):
        with pytest.raises(CalibrationError, match="expected"):
            weighted(system, wrong)
    with pytest.raises(CalibrationError, match="finite"):
        weighted(system, np.where(inputs > 1, np.nan, inputs))
    with pytest.raises(CalibrationError, match="expected"):
        weighted(system, inputs, weight=np.eye(2))
    with pytest.raises(CalibrationError, match="positive"):
        weighted(system, inputs, weight=np.repeat(np.diag([1.0, -1.0])[None], 2, axis=0))


def test_unit_of_the_data_does_not_matter():
    system: DenseSystem = dense(2, 6)
    one, two = (weighted(system, scale * noise(system), 3).system for scale in (1e-20, 1e20))
    h = impulse_response(two, 40)
    np.testing.assert_allclose(impulse_response(one, 40), h, rtol=0, atol=1e-9 * np.abs(h).max())
