"""Residualisation: the steady gain is kept, and the states left out are those that stand still.

The steady gain is computed here by dense solves; it is kept to rounding of the sums it is made of, 1e-12 of the
largest gain.
"""

from __future__ import annotations

import numpy as np
import pytest

from ssmtool.errors import ReductionError
from ssmtool.lti.hankel import hankel_singular_values
from ssmtool.lti.impulse import impulse_response
from ssmtool.lti.norms import difference, hinf_norm, to_dense
from ssmtool.lti.systems import DenseSystem, DiagonalSystem, System
from ssmtool.lti.textbook import current_input, steady_gain, textbook
from ssmtool.reductions._contract import Options, Target
from ssmtool.reductions.residualised import reduce
from tests.lti.samples import batch, dense, diagonal, mixed, real_stored, ring, s4d_inv, s4d_lin, s4d_real, slots

SYSTEMS: dict[str, System] = {
    "SISO": ring(3, 5),
    "poles near 0": ring(3, 5, low=0.01),
    "SISO with real poles": mixed(3, 5),
    "real-stored": real_stored(3, 6),
    "SIMO": ring(2, 5, 1, 3),
    "MIMO": mixed(2, 5, 2, 3),
    "redundant": slots(ring(2, 4), [0, 1, 1, 2, 3]),
    "S4D-Lin": s4d_lin(16, 0.05),
    "S4D-Inv": s4d_inv(16, 0.01),
    "S4D-Real, numerically of order 12": s4d_real(24),
    "dense": dense(2, 6, 2, 2),
}

each_system = pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS.keys())


def gain_at_1(system: System) -> np.ndarray:
    full = to_dense(system)
    return full.C @ np.linalg.solve(np.eye(full.order) - full.A, full.B) + full.D


@each_system
@pytest.mark.parametrize("rank", [1, 2, 3, 5, 8, 12])
def test_the_steady_gain_is_kept(system, rank):
    result = reduce(system, Target("rank", rank))
    scale = hinf_norm(system).max()
    np.testing.assert_allclose(gain_at_1(result.system), gain_at_1(system), rtol=0, atol=1e-12 * scale)


@each_system
@pytest.mark.parametrize("rank", [1, 3, 5, 8])
def test_the_bound_holds_and_is_no_more_than_that_of_truncation(system, rank):
    result = reduce(system, Target("rank", rank))
    sigma = hankel_singular_values(system).sigma
    measured = hinf_norm(difference(system, result.system))
    assert (measured <= result.bound * (1 + 1e-6) + result.diagonal_error + 1e-12 * sigma[:, 0]).all()
    truncation = np.array([2 * row[r:].sum() for row, r in zip(sigma, result.orders, strict=True)])
    assert (result.bound <= truncation * (1 + 1e-9) + 1e-12 * sigma[:, 0]).all()


def test_states_that_settle_at_once_are_exactly_residualised():
    """A fast part with poles near 0 is a constant gain at low frequencies: D takes it up."""
    slow, fast = np.log([0.95, 0.9]), np.log([1e-5, 2e-5])
    system = diagonal(np.concatenate([slow, fast]), [1, 1, 1, 1], [1, 2, 0.3, 0.2], [[0.25]], real=True)
    result = reduce(system, Target("rank", 2))
    np.testing.assert_allclose(np.sort(result.system.a[0].real), np.sort(slow), atol=1e-4)
    np.testing.assert_allclose(result.system.D[0], 0.75, atol=1e-4)


def test_a_tolerance_is_met_with_the_smallest_order_its_bound_allows():
    system = ring(3, 6, 2, 2)
    result = reduce(system, Target("error", 0.3))
    tail = hankel_singular_values(textbook(system)).sigma
    first = hankel_singular_values(system).sigma[:, 0]
    for s, r in enumerate(result.orders):
        assert 2 * tail[s, r:].sum() <= 0.3 * first[s]
        assert r == 0 or 2 * tail[s, r - 1 :].sum() > 0.3 * first[s]


def test_order_0_is_the_steady_gain_alone():
    system = batch(ring(1, 3), diagonal(ring(1, 3).a[0], np.zeros(3), np.ones(3), [[2.0]]))
    result = reduce(system, Target("error", 100.0))
    assert result.orders.tolist() == [0, 0]
    h = impulse_response(result.system, 10)
    np.testing.assert_allclose(h[..., 0], gain_at_1(system), rtol=1e-12)
    assert not h[..., 1:].any()


def test_a_fixed_feedthrough_is_refused():
    with pytest.raises(ReductionError, match=r"feedthrough D, which has to stay here\. Use --method balanced"):
        reduce(ring(1, 2), Target("rank", 1), options=Options(feedthrough=False))


@each_system
def test_textbook_form_is_the_same_response_one_step_later(system):
    form = textbook(system)
    h = impulse_response(system, 30)
    full = to_dense(form)
    again = impulse_response(DenseSystem(full.A, full.B, full.C, 0 * full.D), 29)
    np.testing.assert_allclose(form.D, h[..., 0], rtol=0, atol=1e-13 * np.abs(h).max())
    np.testing.assert_allclose(again, h[..., 1:], rtol=0, atol=1e-13 * np.abs(h).max())


@pytest.mark.parametrize("system", [ring(2, 4, 2, 3), mixed(2, 4), real_stored(2, 4)], ids=["MIMO", "SISO", "real"])
def test_current_input_form_undoes_textbook_form(system):
    again, moved = current_input(textbook(system))
    assert not moved.any()
    h = impulse_response(system, 30)
    np.testing.assert_allclose(impulse_response(again, 30), h, rtol=0, atol=1e-13 * np.abs(h).max())


def test_a_delay_is_represented_by_a_pole_close_to_0():
    """y[k] = u[k-1] has no current-input form; with the pole at 1e-6 the impulse response is right to 1e-6."""
    one = np.ones((1, 1, 1))
    delay = DiagonalSystem(np.full((1, 1), -700.0 + 0j), one + 0j, one + 0j, 0 * one)
    found, moved = current_input(delay)
    h = impulse_response(found, 5)[0, 0, 0]
    np.testing.assert_allclose(h, [0, 1, 0, 0, 0], rtol=0, atol=1.1e-6)
    assert 1e-6 < moved[0] < 3e-6


@each_system
def test_steady_gain_is_the_sum_of_the_impulse_response(system):
    scale = hinf_norm(system).max()
    np.testing.assert_allclose(steady_gain(system), gain_at_1(system), rtol=0, atol=1e-12 * scale)
