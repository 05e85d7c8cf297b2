"""Responses against the FFT of the impulse response, and their norms against singular values of whole matrices."""

from __future__ import annotations

import numpy as np
import pytest

from ssmtool.lti.impulse import impulse_response
from ssmtool.lti.responses import gains, impulse_sizes, take
from ssmtool.lti.systems import DiagonalSystem, System, without_feedthrough
from tests.lti.samples import dense, mixed, real_stored, ring

SYSTEMS: dict[str, System] = {
    "SISO": ring(3, 5),
    "SIMO": ring(3, 5, 1, 3),
    "MIMO": mixed(2, 5, 3, 2),
    "more inputs and outputs than states": ring(2, 2, 9, 7),
    "real-stored": real_stored(3, 4, 2, 2),
    "dense": dense(3, 6, 2, 3),
    "dense SISO": dense(2, 4, 1, 1),
}
each_system = pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS.keys())


@each_system
def test_impulse_sizes_are_norms_of_the_impulse_response(system):
    h = impulse_response(without_feedthrough(system), 40)
    expected = h[:, 0, 0] if h.shape[1:3] == (1, 1) else np.linalg.norm(h, axis=(1, 2))
    np.testing.assert_allclose(impulse_sizes(system, 40), expected, rtol=1e-10, atol=1e-13)


@each_system
def test_gains_are_norms_of_the_transform_of_the_impulse_response(system):
    # 4096 steps: what is left of a pole at 0.95 is 1e-91
    G = np.moveaxis(np.fft.rfft(impulse_response(without_feedthrough(system), 4096)), -1, 1)
    places = [1, 7, 100, 900, 2000]
    expected = np.linalg.norm(G[:, places], ord=2, axis=(2, 3))
    np.testing.assert_allclose(gains(system, 2 * np.pi * np.array(places) / 4096), expected, rtol=1e-9)


def test_a_slow_mode_keeps_its_gain_at_a_low_frequency():
    # G(e^{iw}) = 1 / (1 - e^{a - iw}), about 1 / (w i - a): 1e9 / sqrt(2)
    one = np.ones((1, 1, 1), np.complex128)
    system = DiagonalSystem(np.full((1, 1), -1e-9 + 0j), one, one, np.zeros((1, 1, 1)), real=True)
    np.testing.assert_allclose(gains(system, np.array([1e-9])), 1e9 / np.sqrt(2), rtol=1e-8)


def test_a_pole_on_the_circle_has_an_infinite_gain():
    one = np.ones((1, 1, 1))
    system = DiagonalSystem(np.zeros((1, 1), complex), one.astype(complex), one.astype(complex), 0 * one)
    assert np.isinf(gains(system, np.array([0.0]))).all()


@each_system
def test_taken_systems_respond_as_before(system):
    chosen = np.array([system.systems - 1, 0])
    np.testing.assert_array_equal(impulse_response(take(system, chosen), 9), impulse_response(system, 9)[chosen])
