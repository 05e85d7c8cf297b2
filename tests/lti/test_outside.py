"""States on or outside the unit circle: rounded ones are the same, others are not, and how far apart is measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmtool.lti.impulse import impulse_response
from ssmtool.lti.outside import compare_outside
from ssmtool.lti.systems import DiagonalSystem
from tests.lti.samples import diagonal, real_stored, ring, slots

SINGLE = 2.0**-24


def outside(systems: int, count: int, inputs: int = 1, outputs: int = 1, seed: int = 0) -> DiagonalSystem:
    """Random poles with moduli from 1 to 1.2, the first on the circle."""
    system = ring(systems, count, inputs, outputs, seed)
    growth = np.random.default_rng(seed).uniform(0, 0.18, system.a.shape)
    growth[:, 0] = 0.0
    return replace(system, a=growth + 1j * system.a.imag, D=np.zeros_like(system.D))


def rounded(system: DiagonalSystem, share: float, seed: int = 0) -> DiagonalSystem:
    """Every real number of poles and weights off by up to that share of itself."""
    rng = np.random.default_rng(seed)

    def off(x):
        by = rng.uniform(-share, share, (2, *x.shape))
        return x.real * (1 + by[0]) + 1j * x.imag * (1 + by[1])

    return replace(system, a=off(system.a), B=off(system.B), C=off(system.C))


def nothing(system: DiagonalSystem) -> DiagonalSystem:
    return slots(system, slice(0, 0))


def verdict(first: DiagonalSystem, second: DiagonalSystem, relative: float = 16 * SINGLE) -> tuple[bool, bool]:
    found = compare_outside(first, second, relative)
    return bool(found.poles.any()), bool(found.weights.any())


def test_order_mirror_images_and_scales_of_slots_do_not_count():
    system = outside(3, 4, 2, 3)
    scale = np.random.default_rng(1).uniform(0.1, 10, system.a.shape)
    other = replace(system, B=system.B * scale[:, :, None], C=system.C / scale[:, None, :])
    other = slots(other, [2, 0, 3, 1])
    mirrored = replace(other, a=other.a.conj() + 2j * np.pi, B=other.B.conj(), C=other.C.conj())
    for same in (other, mirrored):
        found = compare_outside(system, same, 16 * SINGLE)
        assert not found.poles.any()
        assert not found.weights.any()
        assert (found.deviation < 1e-13).all()


@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 3), st.integers(0, 1000), st.sampled_from([SINGLE, 2**-8]))
def test_what_storage_rounds_is_the_same(systems, count, inputs, seed, unit):
    system = outside(systems, count, inputs, 2, seed)
    assert verdict(system, rounded(system, 16 * unit, seed), 16 * unit) == (False, False)


def test_the_deviation_is_that_of_the_impulse_responses():
    system = replace(outside(2, 3), a=1j * outside(2, 3).a.imag)  # on the circle, where nothing is scaled
    other = rounded(system, 1e-3)
    gap = np.abs(impulse_response(system, 12) - impulse_response(other, 12))[:, 0, 0]
    sizes = (np.abs(system.B[:, :, 0]) * np.abs(system.C[:, 0])).sum(axis=1)
    found = compare_outside(system, other, 16 * SINGLE)
    np.testing.assert_allclose(found.deviation, gap.max(axis=1) / sizes, rtol=1e-12)


@pytest.mark.parametrize("move", [1e-5, 1e-5j])
def test_another_pole_is_another(move):
    system = outside(2, 3)
    a = system.a.copy()
    a[1, 2] += move
    found = compare_outside(system, replace(system, a=a), 16 * SINGLE)
    assert found.poles.tolist() == [False, True]
    assert not found.weights.any()


@pytest.mark.parametrize("part", ["B", "C"])
def test_the_same_poles_with_other_weights_are_told_apart(part):
    system = outside(2, 3, 2, 2)
    weights = getattr(system, part).copy()
    weights[0] *= 1 + 1e-3
    found = compare_outside(system, replace(system, **{part: weights}), 16 * SINGLE)
    assert (found.poles.any(), found.weights.tolist()) == (False, [True, False])
    # every value of h is off by a thousandth of itself, which is at most what its modes add up to
    assert 1e-5 < found.deviation[0] <= 1.0001e-3
    assert found.deviation[1] == 0


def test_weights_on_the_wrong_poles_are_other_weights():
    system = outside(1, 2)
    assert verdict(system, replace(system, B=system.B[:, ::-1])) == (False, True)


def test_one_state_too_many_or_too_few():
    system = outside(2, 3)
    for one, two in ((system, slots(system, [0, 2])), (slots(system, [0, 2]), system)):
        assert verdict(one, two) == (True, False)
    for one, two in ((system, nothing(system)), (nothing(system), system)):
        found = compare_outside(one, two, 16 * SINGLE)
        assert found.poles.all()
        assert (found.deviation > 0).all()


def test_slots_that_do_nothing_are_not_there():
    system = outside(2, 3)
    B, C = system.B.copy(), system.C.copy()
    B[0, 1], C[1, :, 1] = 0, 0
    assert verdict(replace(system, B=B, C=C), slots(system, [0, 2])) == (False, False)
    assert verdict(nothing(system), replace(system, B=0 * system.B)) == (False, False)


def test_equal_poles_count_by_what_they_do_together():
    """Two slots at one pole are one whose residue is the sum, for one input and one output."""
    one = diagonal([0.1 + 1j, 0.1 + 1j], [1, 1], [2, 3j])
    assert verdict(one, diagonal([0.1 + 1j], [1], [2 + 3j])) == (False, False)
    assert verdict(one, diagonal([0.1 + 1j], [1], [2])) == (False, True)


def test_real_poles_stored_as_states_or_as_halves_of_pairs():
    system = real_stored(2, 4)
    system = replace(system, a=np.abs(system.a.real) + 1j * system.a.imag)
    assert verdict(system, replace(system, real=False)) == (False, False)


def test_growth_beyond_all_numbers():
    system = diagonal([60.0 + 1j, 0.2 + 2j, 0.0], [1, 2, 1], [1, 1, 1])
    assert verdict(system, rounded(system, SINGLE)) == (False, False)
    assert verdict(system, replace(system, C=1.01 * system.C)) == (False, True)
