"""Realisation of arrays of lags: optimality in the Hankel norm, what no model can do, targets and the feedthrough."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from ssmtool.lti.impulse import impulse_response
from ssmtool.lti.systems import DiagonalSystem
from ssmtool.pipeline.model import load
from ssmtool.pipeline.realise import realize
from ssmtool.pipeline.realise_one import METHODS, Solver
from ssmtool.reductions._contract import Target

LENGTH = 30


@pytest.fixture
def kernel() -> np.ndarray:
    """(1, 1, L) random lags that decay."""
    return (np.random.default_rng(5).standard_normal(LENGTH) * 0.9 ** np.arange(LENGTH))[None, None]


def error_lags(candidate, h: np.ndarray, length: int) -> np.ndarray:
    error = impulse_response(candidate.system, length)[0, 0, 0]
    error[: h.shape[2]] -= h[0, 0]
    return error


def largest_gain(candidate, h: np.ndarray) -> float:
    """Of the error, on a fine grid and at the angles of the poles."""
    a, residue = candidate.system.a[0], candidate.system.C[0, 0] * candidate.system.B[0, :, 0]
    omega = np.concatenate([np.linspace(0, np.pi, 20_001), np.abs(np.angle(np.exp(1j * a.imag)))])
    z = np.exp(-1j * omega)[:, None]
    model = (residue / (1 - z * np.exp(a)) + residue.conj() / (1 - z * np.exp(a.conj()))).sum(axis=1) / 2
    lags = (h[0, 0] * z ** np.arange(h.shape[2])).sum(axis=1)
    return float(np.abs(model + candidate.system.D[0, 0, 0] - lags).max())


def hankel_norm(lags: np.ndarray) -> float:
    return float(np.abs(scipy.linalg.eigvalsh(scipy.linalg.hankel(lags))).max())


@pytest.mark.parametrize(("feedthrough", "order"), [(False, 3), (False, 6), (True, 6)])
def test_aak_is_optimal_in_the_hankel_norm(kernel, feedthrough, order):
    """The Hankel norm of the error, D aside, is the next singular value of [h_{i+j+1}]: nothing is smaller."""
    solver = Solver(kernel, "F64", feedthrough, "cpu")
    solver.prepare(LENGTH)
    found = solver.candidate("aak", order)
    assert found.order == order
    truth = np.sort(np.abs(scipy.linalg.eigvalsh(scipy.linalg.hankel(kernel[0, 0, 1:]))))[::-1]
    error = error_lags(found, kernel, 1200)  # after that the response has ended
    assert np.abs(error[-20:]).max() < 1e-12
    assert hankel_norm(error[1:]) == pytest.approx(truth[order], rel=1e-7)
    if feedthrough:
        assert error[0] == pytest.approx(0, abs=1e-12)
    gain = np.abs(np.fft.rfft(error, 1 << 13)).max()
    assert gain <= found.bound <= (1 + feedthrough) * truth[order:].sum() * (1 + 1e-6)


@pytest.mark.parametrize("feedthrough", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_no_model_beats_the_least_error(kernel, method, feedthrough):
    solver = Solver(kernel, "F32", feedthrough, "cpu")
    solver.prepare(LENGTH)
    for order in (1, 4, 9, 20):
        found = solver.candidate(method, order)
        gain = largest_gain(found, kernel)
        assert found.order <= order
        assert gain >= solver.least(found) * (1 - 1e-6)
        assert found.error.hinf == pytest.approx(gain, rel=1e-3)


def test_an_error_target_takes_the_fewest_states_that_meet_it(kernel):
    for method in ("balanced", "aak"):  # what era continues these lags with never ends
        solver = Solver(kernel, "F64", False, "cpu")
        solver.start(Target("error", 0.2), True)
        limit = 0.2 * solver.hankel_norm
        found, _ = solver.smallest(method, limit, LENGTH)
        assert found is not None
        assert found.error.hinf <= limit
        assert solver.candidate(method, found.order - 1).error.hinf > limit


@pytest.mark.parametrize("feedthrough", [False, True])
def test_layers_read_back_are_what_the_report_measured(tmp_path, kernel, feedthrough):
    """Lags first, two systems, single precision."""
    h = np.stack([kernel[0, 0], np.roll(kernel[0, 0], 1)]).astype(np.float32)
    np.save(tmp_path / "k.npy", h.T)
    done = realize(tmp_path / "k.npy", axes="LS", rank=12, feedthrough=feedthrough)
    assert done.output == tmp_path / "k-rank12.safetensors"
    model = load(tmp_path / "k-rank12.safetensors")
    (layer,) = model.layers
    assert (layer.family, layer.systems, layer.name) == ("neutral", 2, "kernel")
    response = impulse_response(model.system(layer), LENGTH)[:, 0, 0]
    (row,) = done.layers
    np.testing.assert_allclose(np.linalg.norm(response - h, axis=1), row.lags, rtol=1e-6)
    assert row.relative("lags") < 0.5
    if feedthrough:
        np.testing.assert_allclose(response[:, 0], h[:, 0], rtol=0, atol=1e-6)  # D and C B in float32


def test_a_response_that_does_not_decay_gets_a_stable_model_and_a_remark(tmp_path):
    """A constant is a pole at 1, which rounding puts a hair inside: it has to be moved all the same."""
    np.save(tmp_path / "h.npy", np.ones(50))
    done = realize(tmp_path / "h.npy", tmp_path / "out.safetensors", rank=4, method="era")
    model = load(tmp_path / "out.safetensors")
    # A decay of a thousandth over 50 lags, as documented; half of it is the rounding's share.
    system = model.system(model.layers[0])
    assert isinstance(system, DiagonalSystem)
    assert system.a.real.max() <= -0.5e-3 / 50
    assert done.layers[0].relative("lags") < 2e-3
    assert any("moved just inside" in remark for remark in done.layers[0].remarks)
