"""Delays of impulse responses: closed forms against sums over the response itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmtool.analyses._linear import horizon, mean_delay
from ssmtool.lti.impulse import impulse_response
from ssmtool.lti.norms import to_dense
from ssmtool.lti.systems import DiagonalSystem, System, without_feedthrough
from tests.lti.samples import dense, diagonal, mixed, real_stored, ring

SYSTEMS: dict[str, System] = {
    "SISO": ring(4, 5),
    "MIMO": mixed(2, 5, 2, 3),
    "real-stored": real_stored(3, 6),
    "dense": dense(2, 6, 2, 2),
    "dense form of a diagonal one": to_dense(ring(2, 4)),
}


def energies(system: System) -> np.ndarray:
    """(S, L) energy of the impulse response at every step, long enough for what is left to be rounding."""
    return np.square(impulse_response(without_feedthrough(system), 20000)).sum(axis=(1, 2))


@pytest.mark.parametrize("name", SYSTEMS)
def test_against_the_impulse_response(name):
    system = SYSTEMS[name]
    energy = energies(system)
    total = energy.sum(axis=1)
    np.testing.assert_allclose(mean_delay(system), energy @ np.arange(energy.shape[1]) / total, rtol=1e-8)
    tail = np.cumsum(energy[:, ::-1], axis=1)[:, ::-1]
    for share in (0.5, 0.01):
        found = horizon(system, share).astype(int)
        for s, K in enumerate(found):
            assert tail[s, K] <= share * total[s] * (1 + 1e-9)
            assert K == 0 or tail[s, K - 1] > share * total[s] * (1 - 1e-9)


@pytest.mark.parametrize("modulus", [0.3, 0.9, 0.999])
def test_one_real_pole(modulus):
    system = diagonal([np.log(modulus)], [1.0], [1.0], real=True)
    q = modulus**2
    assert mean_delay(system)[0] == pytest.approx(q / (1 - q))
    assert horizon(system)[0] == np.ceil(np.log(0.01) / np.log(q))


@pytest.mark.parametrize("share", [0.9, 0.01, 1e-6])
@pytest.mark.parametrize("decay", [20.0, 1.0, 1e-3, 1e-7, 3e-11])
def test_one_real_pole_of_any_speed(decay, share):
    """||h_k||^2 = exp(-2 k decay), so the tail from K on is that share of the whole."""
    system = diagonal([-decay], [1.0], [1.0], real=True)
    expected = -np.log(share) / (2 * decay)
    # where the quotient is so close to a whole number that its last digits decide, either neighbour is right
    assert horizon(system, share)[0] in {np.ceil(expected * (1 - 1e-15)), np.ceil(expected * (1 + 1e-15))}


def test_what_lasts_longer_than_can_be_counted_is_infinite():
    assert np.isinf(horizon(diagonal([-1e-13], [1.0], [1.0]))[0])


@given(st.integers(0, 10_000), st.integers(1, 4), st.floats(1e-6, 0.99))
def test_fast_and_slow_modes_side_by_side(seed, count, share):
    """Weights that cancel at first, and decays from one step to hundreds: the first step whose tail is small enough."""
    rng = np.random.default_rng(seed)
    a = -(10.0 ** rng.uniform(-2.3, 1, (6, count))) + 1j * rng.uniform(0, 4, (6, count))
    C = rng.standard_normal((6, 1, count)) + 1j * rng.standard_normal((6, 1, count))
    C[0] -= C[0].mean()
    system = DiagonalSystem(a, np.ones((6, count, 1), complex), C, np.zeros((6, 1, 1)))
    energy = np.square(impulse_response(system, 8000)).sum(axis=(1, 2))  # exp(-2 * 8000 / 200) is left
    tail = np.cumsum(energy[:, ::-1], axis=1)[:, ::-1]
    found = horizon(system, share)
    for s, K in enumerate(found.astype(int)):
        # where nothing but rounding is left of cancelling weights there is no share of it
        slack = 1e-9 * tail[s, 0] + 1e-24
        assert tail[s, K] <= share * tail[s, 0] + slack
        assert K == 0 or tail[s, K - 1] >= share * tail[s, 0] - slack


def test_feedthrough_plays_no_part_and_nothing_has_no_delay():
    silent = diagonal([-0.1], [1.0], [0.0], D=[[5.0]])
    assert (mean_delay(silent)[0], horizon(silent)[0]) == (0.0, 0.0)


def test_unstable_systems_never_forget():
    stable = ring(2, 3)
    a = stable.a.copy()
    a[0, 0] = 0.001
    system = DiagonalSystem(a, stable.B, stable.C, stable.D)
    assert np.isinf(horizon(system)[0])
    assert np.isinf(mean_delay(system)[0])
    assert np.isfinite([horizon(system)[1], mean_delay(system)[1]]).all()
