"""The one-dimensional token dynamics: its three regimes and their rates."""

from __future__ import annotations

import numpy as np
import pytest

from ssmtool.analyses._token_flow import convergence_constants, token_flow

LATE = np.array([0.0, 1e2, 1e4, 1e6])


@pytest.mark.parametrize(("mu", "bias", "a"), [(-1.0, 0.0, 1.0), (-2.5, 0.7, 0.4), (-0.3, -1.0, 3.0)])
def test_negative_mu_every_token_tends_to_zero_at_the_predicted_rate(mu, bias, a):
    flow = token_flow(np.array([1.0, -0.7, 0.5, 0.9]), LATE, mu=mu, step_slope=0.5, step_bias=bias, a=a)
    first, other = convergence_constants(mu, np.logaddexp(0, bias), a)
    assert flow.blow_up is None
    scaled = np.abs(flow.x[:, -1]) * np.sqrt(flow.t[-1])
    # steps differ from softplus(bias) by O(x) = O(1 / sqrt(t)) still
    np.testing.assert_allclose(scaled, [first, other, other, other], rtol=1e-2)


def test_the_constants_of_the_notes():
    first, other = convergence_constants(-1.0, np.log(2), 1.0)
    assert (round(first, 3), round(other, 4)) == (0.849, 0.6006)


def test_one_token_with_a_constant_step_has_a_closed_form():
    """dx/dt = mu s x^3: x = x0 / sqrt(1 - 2 mu s x0^2 t), with a pole at 1 / (2 mu s x0^2) for mu > 0."""
    s, t = np.log(2), np.linspace(0, 5, 11)
    falling = token_flow(np.array([0.8]), t, mu=-1.3)
    np.testing.assert_allclose(falling.x[0], 0.8 / np.sqrt(1 + 2 * 1.3 * s * 0.64 * t), rtol=1e-7)
    rising = token_flow(np.array([0.8]), t, mu=1.3)
    pole = 1 / (2 * 1.3 * s * 0.64)
    assert rising.blow_up == pytest.approx(pole, rel=1e-6)
    np.testing.assert_allclose(rising.x[0], 0.8 / np.sqrt(1 - rising.t / pole), rtol=1e-6)
    assert rising.t[-1] < pole


def test_positive_mu_with_steps_that_close_diverges_like_a_logarithm():
    """dx/dt ~ mu x^3 exp(-z), z = |S| x: t ~ e^z / (mu |S| x^3) (1 + 3 / z + 12 / z^2), and x ~ ln(t) / |S|."""
    slope, mu = 2.0, 1.0
    t = np.array([0.0, 1e4, 1e8, 1e12])
    flow = token_flow(np.array([-1.0, -0.7]), t, mu=mu, step_slope=slope)
    assert flow.blow_up is None
    x = np.abs(flow.x[0, 1:])
    z = slope * x
    np.testing.assert_allclose(z, np.log(t[1:] * mu * slope * x**3 / (1 + 3 / z + 12 / z**2)), rtol=3e-3)
    assert (np.abs(flow.x[1, 1:]) > x).all()


def test_positive_mu_with_an_open_step_blows_up_in_finite_time():
    flow = token_flow(np.array([1.0, -0.7]), np.linspace(0, 100, 5), mu=1.0, step_slope=1.0)
    assert flow.blow_up is not None
    assert flow.blow_up < 2
    assert flow.x.shape == (2, len(flow.t))
