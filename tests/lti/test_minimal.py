"""A minimal system has the same impulse response and the same non-zero Hankel singular values as the stored one.

Tolerances: merging equal poles moves a pole by at most 8 ulp and adds a handful of residues, so responses agree to
1e-12 of their largest value over 64 steps. Singular values that are zero in exact arithmetic are exactly zero.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg

from ssmtool.lti.hankel import hankel_singular_values
from ssmtool.lti.impulse import impulse_response
from ssmtool.lti.minimal import minimal
from ssmtool.lti.systems import DiagonalSystem
from tests.lti.samples import batch, diagonal, mixed, realisation, ring, slots

LENGTH = 64


def aliased(inputs: int = 1, outputs: int = 1) -> DiagonalSystem:
    """S4D-Lin with Im a = k pi / 8 exactly in units of float64's pi: k and k + 16 are one pole, k and 16 - k mirror."""
    rng = np.random.default_rng(5)
    k = np.arange(32)
    a = -1 / 32 + 1j * (np.pi / 8) * k
    return diagonal(
        a,
        rng.standard_normal((32, inputs)) + 1j * rng.standard_normal((32, inputs)),
        rng.standard_normal((outputs, 32)) + 1j * rng.standard_normal((outputs, 32)),
    )


def conjugates_stored(inputs: int, outputs: int) -> DiagonalSystem:
    """Both members of every pair, with conjugate B and C: a full spectrum."""
    half = ring(1, 4, inputs, outputs, seed=2)
    return DiagonalSystem(
        np.concatenate([half.a, half.a.conj()], 1),
        np.concatenate([half.B, half.B.conj()], 1),
        np.concatenate([half.C, half.C.conj()], 2),
        half.D,
    )


def duplicated(inputs: int, outputs: int) -> DiagonalSystem:
    """Every slot twice: for one input and one output half of them are redundant."""
    system = ring(1, 4, inputs, outputs, seed=3)
    other = ring(1, 4, inputs, outputs, seed=4)
    return diagonal(
        np.concatenate([system.a[0]] * 2),
        np.concatenate([system.B[0], other.B[0]]),
        np.concatenate([system.C[0], other.C[0]], 1),
    )


def half_slot_real(inputs: int, outputs: int) -> DiagonalSystem:
    """A positive and a negative real pole stored as complex slots, with complex B and C, beside two pairs."""
    system = ring(1, 4, inputs, outputs, seed=6)
    system.a[0, :2] = (-0.3, -0.2 + 1j * np.pi)
    return system


def rank_one_real() -> DiagonalSystem:
    """As `half_slot_real`, but Re(C_i B_i) has rank one: B real, C complex."""
    system = half_slot_real(3, 2)
    system.B[0, :2] = system.B[0, :2].real
    return system


def silent_slots(inputs: int, outputs: int) -> DiagonalSystem:
    """One slot that no input reaches and one that no output sees."""
    system = ring(1, 5, inputs, outputs, seed=8)
    system.B[0, 1], system.C[0, :, 3] = 0, 0
    return system


def cancelling() -> DiagonalSystem:
    """Two equal poles whose residues cancel exactly, and one pair that stays."""
    return diagonal([-0.1 + 1j, -0.1 + 1j, -0.3 + 0.5j], [1, 2, 1], [2 - 1j, -1 + 0.5j, 1])


# system, redundant states of the real input-output system
CASES = {
    # poles k pi / 8 for k = 0 … 31 are 9 different ones up to mirror images, two of them real: 16 states of 64
    "aliased": (aliased(), 64 - 16),
    # two inputs and two outputs: 7 pairs of rank 2 and two real poles of rank 2
    "aliased MIMO": (aliased(2, 2), 64 - 7 * 4 - 2 * 2),
    "conjugates stored": (conjugates_stored(1, 1), 8),
    "conjugates stored MIMO": (conjugates_stored(3, 2), 8),
    "duplicated": (duplicated(1, 1), 8),
    "duplicated, one input": (duplicated(1, 3), 8),
    "duplicated MIMO, rank 2 residues": (duplicated(3, 2), 0),
    "real poles in half slots": (half_slot_real(1, 1), 2),
    "real poles in half slots, rank 2": (half_slot_real(3, 2), 0),
    "real poles in half slots, rank 1": (rank_one_real(), 2),
    "silent slots": (silent_slots(1, 1), 4),
    "silent slots MIMO": (silent_slots(2, 3), 4),
    "cancelling": (cancelling(), 4),
    "nothing redundant": (ring(1, 5, 2, 2), 0),
    "one state": (diagonal([-0.5], [2.0], [3.0], real=True), 0),
    "one pair": (diagonal([-0.5 + 1j], [2.0], [3.0]), 0),
    "all redundant": (diagonal([-0.5 + 1j, -0.2], [0, 0], [3.0, 1.0]), 4),
}

each_case = pytest.mark.parametrize(("system", "redundant"), CASES.values(), ids=CASES.keys())


def as_system(system: DiagonalSystem) -> DiagonalSystem:
    reduced = minimal(system)
    return DiagonalSystem(reduced.a, reduced.B, reduced.C, system.D)


def gramian_sigma(system: DiagonalSystem) -> np.ndarray:
    """Square roots of eig(P Q) of the system as stored, by scipy's Lyapunov solver: about 1e-8 of the largest."""
    A, B, C = realisation(system)
    P = linalg.solve_discrete_lyapunov(A, B @ B.T)
    Q = linalg.solve_discrete_lyapunov(A.T, C.T @ C)
    return np.sort(np.sqrt(np.maximum(np.linalg.eigvals(P @ Q).real, 0)))[::-1]


@each_case
def test_impulse_response_is_unchanged(system, redundant):
    before, after = impulse_response(system, LENGTH), impulse_response(as_system(system), LENGTH)
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-12 * max(np.abs(before).max(), 1e-300))


@each_case
def test_redundant_states_are_counted(system, redundant):
    reduced = minimal(system)
    assert reduced.redundant.tolist() == [redundant]
    assert reduced.order.tolist() == [system.order - redundant]


@each_case
def test_non_zero_hankel_singular_values_are_those_of_the_stored_system(system, redundant):
    spectrum = hankel_singular_values(system)
    assert spectrum.sigma.shape == (1, system.order)
    kept = system.order - redundant
    assert (spectrum.sigma[0, :kept] > 0).all()
    assert (spectrum.sigma[0, kept:] == 0).all()
    assert (np.diff(spectrum.sigma[0]) <= 0).all()
    width = min(2 * system.slots, system.order)
    expected = gramian_sigma(system)[:width]
    # square roots of eigenvalues that are right to 1e-15 of the largest
    np.testing.assert_allclose(spectrum.sigma[0, :width], expected, rtol=0, atol=1e-7 * max(expected[0], 1e-300))


@each_case
def test_minimal_is_idempotent(system, redundant):
    again = minimal(as_system(system))
    assert (again.order == minimal(system).order).all()


@each_case
def test_poles_lie_above_the_real_axis_and_are_distinct(system, redundant):
    reduced = minimal(system)
    lam = np.exp(reduced.a[reduced.active])
    assert (np.imag(lam) >= -1e-15).all()
    if system.inputs == system.outputs == 1:
        gaps = np.abs(lam[:, None] - lam[None, :]) + np.eye(len(lam))
        assert (gaps > 1e-9).all(where=~np.eye(len(lam), dtype=bool))


@each_case
def test_rows_of_b_and_columns_of_c_are_of_equal_size(system, redundant):
    reduced = minimal(system)
    np.testing.assert_allclose(np.linalg.norm(reduced.B, axis=2), np.linalg.norm(reduced.C, axis=1), rtol=1e-14)


def test_residues_that_cancel_only_together_with_an_aliased_pole():
    turn = 2 * np.pi
    system = diagonal([-0.1 + 1j, -0.1 + 1j * (1 + turn)], [1, 1], [1, -1])
    assert minimal(system).redundant.tolist() == [4]


def test_a_real_pole_is_recognised_at_any_number_of_turns():
    angles = np.array([0, 2 * np.pi, np.pi, 3 * np.pi, -np.pi])
    system = diagonal(-0.1 * np.ones(5) + 1j * angles, np.ones(5), [1, 2, 3, 4, 5 + 1j])
    reduced = minimal(system)
    assert reduced.order.tolist() == [2]
    h = impulse_response(system, LENGTH)
    np.testing.assert_allclose(impulse_response(as_system(system), LENGTH), h, rtol=0, atol=1e-12 * np.abs(h).max())


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (2, 3)])
def test_a_slot_within_rounding_of_an_aliased_real_pole_joins_it(inputs, outputs):
    """A tiny stored angle is complex by its own rounding, but the same pole as 2 pi by that one's."""
    rng = np.random.default_rng(1)
    for angles in ([1e-15, 2 * np.pi], [2 * np.pi, 1e-15]):
        B = rng.standard_normal((2, inputs)) + 1j * rng.standard_normal((2, inputs))
        C = rng.standard_normal((outputs, 2)) + 1j * rng.standard_normal((outputs, 2))
        system = diagonal([-0.1 + 1j * angles[0], -0.1 + 1j * angles[1]], B, C)
        h = impulse_response(system, LENGTH)
        np.testing.assert_allclose(impulse_response(as_system(system), LENGTH), h, rtol=0, atol=1e-12 * np.abs(h).max())


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (1, 2), (3, 2)])
def test_unstable_and_marginal_states_come_first_and_are_infinite(inputs, outputs):
    stable = ring(1, 3, inputs, outputs, seed=1)
    extra = ring(1, 2, inputs, outputs, seed=2)
    extra.a[0] = (0.0 + 1j, 0.1 + 2j)
    whole = DiagonalSystem(
        np.concatenate([extra.a, stable.a], 1),
        np.concatenate([extra.B, stable.B], 1),
        np.concatenate([extra.C, stable.C], 2),
        stable.D,
    )
    spectrum = hankel_singular_values(whole)
    assert spectrum.unstable.tolist() == [4]
    assert spectrum.redundant.tolist() == [0]
    assert np.isinf(spectrum.sigma[0]).tolist() == [True] * 4 + [False] * 6
    np.testing.assert_allclose(spectrum.sigma[0, 4:], hankel_singular_values(stable).sigma[0], rtol=1e-13)


def test_unstable_real_states_count_one_each():
    system = diagonal([0.0, 0.2, -0.1], [1, 1, 1], [1, 1, 1], real=True)
    spectrum = hankel_singular_values(system)
    assert spectrum.unstable.tolist() == [2]
    assert np.isinf(spectrum.sigma[0]).tolist() == [True, True, False]


def test_an_unstable_slot_that_nothing_reaches_is_still_unstable():
    spectrum = hankel_singular_values(diagonal([0.1 + 1j, -0.1 + 1j], [0, 1], [1, 1]))
    assert spectrum.unstable.tolist() == [2]
    assert np.isinf(spectrum.sigma[0]).tolist() == [True, True, False, False]


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (2, 2)])
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scaling_slots_by_thirty_decades_costs_nothing(inputs, outputs, scale):
    """B_i s and C_i / s is the same system; s differs from slot to slot."""
    system = mixed(1, 5, inputs, outputs, seed=9)
    factor = np.where(np.arange(5) % 2 == 0, scale, 1 / scale)
    other = DiagonalSystem(system.a, system.B * factor[:, None], system.C / factor, system.D)
    one, two = hankel_singular_values(system).sigma, hankel_singular_values(other).sigma
    np.testing.assert_allclose(two, one, rtol=1e-12)


def test_systems_of_a_batch_are_judged_one_by_one():
    plain = ring(1, 4, seed=11)
    twice = slots(plain, [0, 1, 1, 2])
    silent = ring(1, 4, seed=12)
    silent.C[0, 0, 2] = 0
    reduced = minimal(batch(plain, twice, silent))
    assert reduced.redundant.tolist() == [0, 2, 2]


def test_rank_two_real_poles_of_several_systems_share_the_padding():
    """Systems need different numbers of extra slots."""
    first, second = half_slot_real(3, 2), ring(1, 4, 3, 2, seed=1)
    third = half_slot_real(3, 2)
    third.a[0, 1] = -0.4 + 1j
    whole = batch(first, second, third)
    h = impulse_response(whole, LENGTH)
    np.testing.assert_allclose(impulse_response(as_system(whole), LENGTH), h, rtol=0, atol=1e-12 * np.abs(h).max())
    assert minimal(whole).redundant.tolist() == [0, 0, 0]


def test_real_stored_slots_count_one_state():
    system = diagonal([-0.1, -0.1, -0.5 + 1j * np.pi], [1, 2, 1], [1, 1, 1], real=True)
    spectrum = hankel_singular_values(system)
    assert spectrum.redundant.tolist() == [1]
    assert spectrum.sigma.shape == (1, 3)
    assert (spectrum.sigma[0] > 0).tolist() == [True, True, False]
