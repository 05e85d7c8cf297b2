"""Order selection against brute force over all orders."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ssmtool.lti.orders import order_for_energy, order_for_error, tail_bound

# multiples of 1/8 up to 2^10: sums are exact, so that ties at the target are decided, not guessed
values = st.lists(st.integers(0, 8192), min_size=1, max_size=12).map(lambda x: np.sort(np.array(x) / 8.0)[::-1])
infinities = st.integers(0, 3)


@given(values)
def test_the_bound_is_twice_the_sum_of_the_tail(sigma):
    bound = tail_bound(sigma[None])[0]
    assert bound.shape == (len(sigma) + 1,)
    assert bound.tolist() == [2 * sum(sigma[r:]) for r in range(len(sigma) + 1)]


@given(values, infinities)
def test_dropping_an_unstable_state_has_no_bound(sigma, count):
    bound = tail_bound(np.concatenate([np.full(count, np.inf), sigma])[None])[0]
    assert np.isinf(bound[:count]).all()
    assert np.isfinite(bound[count:]).all()


@given(values, infinities, st.floats(1e-3, 1.0))
def test_energy_gives_the_smallest_sufficient_order(sigma, count, fraction):
    order = int(order_for_energy(np.concatenate([np.full(count, np.inf), sigma])[None], fraction)[0])
    total = sigma.sum()
    slack = 1e-13 * total
    assert order >= count
    kept = order - count
    assert sigma[:kept].sum() >= fraction * total - slack
    if kept > 0:
        assert sigma[: kept - 1].sum() < fraction * total + slack


@given(values, infinities, st.floats(1e-6, 30.0))
def test_error_gives_the_smallest_sufficient_order(sigma, count, tolerance):
    order = int(order_for_error(np.concatenate([np.full(count, np.inf), sigma])[None], tolerance)[0])
    assert order >= count
    kept = order - count
    assert 2 * sigma[kept:].sum() <= tolerance * sigma[0]
    if kept > 0:
        assert 2 * sigma[kept - 1 :].sum() > tolerance * sigma[0]


def test_an_unreachable_target_gives_the_full_order():
    sigma = np.array([[3.0, 2.0, 1.0]])
    assert order_for_error(sigma, 1e-300).tolist() == [3]
    assert order_for_energy(sigma, 1.0).tolist() == [3]
    assert order_for_energy(sigma, 1 - 1e-15).tolist() == [3]


def test_silent_systems_need_no_state():
    sigma = np.zeros((1, 4))
    assert order_for_energy(sigma, 0.999).tolist() == [0]
    assert order_for_error(sigma, 1e-9).tolist() == [0]


def test_only_unstable_states_are_all_kept():
    sigma = np.full((1, 3), np.inf)
    assert order_for_energy(sigma, 0.5).tolist() == [3]
    assert order_for_error(sigma, 0.5).tolist() == [3]


def test_redundant_states_are_never_asked_for():
    sigma = np.array([[2.0, 1.0, 0.0, 0.0]])
    assert order_for_energy(sigma, 1.0).tolist() == [2]
    assert order_for_error(sigma, 1e-12).tolist() == [2]


@given(st.lists(values, min_size=2, max_size=4), st.floats(0.01, 0.99))
def test_systems_of_a_batch_are_decided_one_by_one(rows, fraction):
    width = max(len(row) for row in rows)
    sigma = np.stack([np.pad(row, (0, width - len(row))) for row in rows])
    for choose in (order_for_energy, order_for_error):
        together = choose(sigma, fraction)
        assert together.tolist() == [int(choose(row[None], fraction)[0]) for row in sigma]
