"""Two real poles to a slot: what is counted, what is kept, and that the weights are the best for the new poles."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ssmtool.lti.impulse import impulse_response
from ssmtool.lti.slots import least_slots
from ssmtool.lti.systems import DiagonalSystem


def system(poles, seed=0, inputs=1, outputs=1):
    """One system with the given logarithms of poles; real ones have real weights."""
    rng = np.random.default_rng(seed)
    a: NDArray[np.complexfloating] = np.array(poles, dtype=complex)[None]
    free = (np.abs(np.sin(np.imag(a))) > 1e-12)[0]
    B = rng.normal(size=(1, len(poles), inputs)) + 1j * free[None, :, None] * rng.normal(size=(1, len(poles), inputs))
    C = rng.normal(size=(1, outputs, len(poles))) + 1j * free * rng.normal(size=(1, outputs, len(poles)))
    return DiagonalSystem(a, B, C, np.zeros((1, outputs, inputs)))


def energy(one, other, length=4000):
    return np.square(impulse_response(one, length) - impulse_response(other, length)).sum()


def pairs(found):
    used = (found.B[0] != 0).any(axis=1) & (found.C[0] != 0).any(axis=0)
    return found.a[0][used]


def test_complex_pairs_that_fit_stay():
    given = system([-0.1 + 0.5j, -0.2 + 1.5j])
    found = least_slots(given, given, np.array([4]), None, "cpu")
    assert np.array_equal(found.a, given.a)
    assert energy(given, found) < 1e-20 * energy(given, least_slots(given, given, np.array([0]), None, "cpu"))


@pytest.mark.parametrize("shape", [(1, 1), (3, 2)])
def test_two_real_poles_share_a_slot(shape):
    given = system([-0.1, -0.3, -0.05 + 0.8j], inputs=shape[0], outputs=shape[1])
    found = least_slots(given, given, np.array([4]), None, "cpu")
    poles = pairs(found)
    assert len(poles) == 2
    new = poles[np.argmin(np.abs(poles - (-0.2 + 0.1j)))]
    assert new == pytest.approx(-0.2 + 0.1j)  # the mean of both, half their distance off the axis
    assert -0.05 + 0.8j in poles


def test_poles_of_both_signs_do_not_mix():
    given = system([-0.1, -0.2, -0.1 + 1j * np.pi, -0.2 + 1j * np.pi])
    angles = np.sort(np.abs(pairs(least_slots(given, given, np.array([4]), None, "cpu")).imag))
    assert angles[0] < 0.1
    assert angles[1] > np.pi - 0.1
    assert len(angles) == 2


def test_a_single_real_pole_leaves_the_axis():
    given = system([-0.2])
    found = least_slots(given, given, np.array([1]), None, "cpu")
    assert found.a.shape == (1, 1)
    assert 0 < abs(found.a[0, 0].imag) < 0.1


def test_where_slots_are_short_the_weakest_go():
    given = system([-0.1 + 0.5j, -0.1 + 1.5j, -0.1 + 2.5j])
    given = DiagonalSystem(given.a, given.B * np.array([1, 1e-6, 1])[None, :, None], given.C, given.D)
    poles = pairs(least_slots(given, given, np.array([4]), None, "cpu"))
    assert sorted(poles.imag) == [0.5, 2.5]


@pytest.mark.parametrize("horizon", [None, 20])
def test_no_other_weights_for_the_new_poles_are_better(horizon):
    given = system([-0.1, -0.3, -0.05 + 0.8j, -0.4])
    found = least_slots(given, given, np.array([4]), horizon, "cpu")
    length = horizon or 4000
    least = energy(given, found, length)
    for change in np.random.default_rng(0).normal(size=(6, 2, *found.C.shape)) * 1e-3:
        other = DiagonalSystem(found.a, found.B, found.C + change[0] + 1j * change[1], found.D)
        assert energy(given, other, length) > least


def test_systems_without_states_are_no_error():
    given = system([-0.1 + 0.5j, -0.2])
    silent = DiagonalSystem(given.a, given.B, given.C * 0, given.D)
    found = least_slots(silent, silent, np.array([0]), None, "cpu")
    assert np.abs(impulse_response(found, 10)).max() == 0
    assert found.a.shape == (1, 1)


def test_every_system_counts_for_itself():
    one, two = system([-0.1, -0.2, -0.3, -0.4]), system([-0.1 + 1j, -0.2 + 2j, -0.3, -0.4], 1)
    a, B, C, D = (np.concatenate([getattr(one, p), getattr(two, p)]) for p in "aBCD")
    both = DiagonalSystem(a, B, C, D)
    found = least_slots(both, both, np.array([4, 6]), None, "cpu")
    used = (found.B != 0).any(axis=2) & (found.C != 0).any(axis=1)
    assert used.sum(axis=1).tolist() == [2, 3]
