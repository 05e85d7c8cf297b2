"""Time-limited truncation: what it is for, what it refuses, and the limit in which it is balanced truncation."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from ssmtool.errors import ReductionError, UsageError
from ssmtool.lti.impulse import impulse_response
from ssmtool.lti.norms import difference, hinf_norm
from ssmtool.lti.systems import System
from ssmtool.reductions import balanced, time_limited
from ssmtool.reductions._contract import Options, Result, Target
from tests.lti.samples import batch, dense, diagonal, ring


def limited(system: System, horizon: int | None, kind: Literal["rank", "error"] = "rank", value: float = 4) -> Result:
    return time_limited.reduce(system, Target(kind, value), options=Options(horizon=horizon))


def within(system, reduced, horizon) -> np.ndarray:
    """(S,) energy of the error over the horizon, relative."""
    h, g = impulse_response(system, horizon), impulse_response(reduced, horizon)
    return np.square(h - g).sum(axis=(1, 2, 3)) / np.square(h).sum(axis=(1, 2, 3))


def test_a_mode_that_matters_only_after_the_horizon_gives_way():
    """A slow mode with small residue: most of the Hankel norm, next to nothing of the first 30 steps."""
    fast = ring(1, 3, seed=1)
    a = np.concatenate([[-1e-5], fast.a[0] - 0.1])
    system = diagonal(a, np.ones(4), np.concatenate([[1e-3], fast.C[0, 0]]))
    ours = within(system, limited(system, 30, value=4).system, 30)
    theirs = within(system, balanced.reduce(system, Target("rank", 4)).system, 30)
    assert ours < theirs / 10


def test_a_long_horizon_is_balanced_truncation():
    for system in (ring(3, 5), dense(2, 6, 2, 2)):
        one, two = limited(system, 100_000), balanced.reduce(system, Target("rank", 4))
        h = impulse_response(two.system, 100)
        np.testing.assert_allclose(impulse_response(one.system, 100), h, rtol=0, atol=1e-9 * np.abs(h).max())


def test_a_state_that_two_systems_share_is_kept_by_each_in_its_own_measure():
    """The direct sum of a large part of order 2 and one of size 1e-6: order 2 is the large part."""
    large, small = ring(1, 1), ring(1, 2, seed=3)
    system = diagonal(
        np.concatenate([large.a[0], small.a[0]]),
        np.concatenate([large.B[0, :, 0], small.B[0, :, 0]]),
        np.concatenate([large.C[0, 0], 1e-6 * small.C[0, 0]]),
    )
    got = impulse_response(limited(system, 50, value=2).system, 50)
    h = impulse_response(diagonal(large.a[0], large.B[0], large.C[0]), 50)
    np.testing.assert_allclose(got, h, rtol=0, atol=1e-4 * np.abs(h).max())


@pytest.mark.parametrize("horizon", [None, 0, 3])
def test_horizons_that_cannot_be(horizon):
    with pytest.raises(UsageError, match="horizon"):
        limited(ring(2, 5), horizon)


def test_the_horizon_is_compared_with_the_order_there_is():
    """Rank 9 of a system with two states is 2."""
    assert limited(ring(2, 1), 3, value=9).orders.tolist() == [2, 2]


def test_an_error_out_of_reach_names_the_best():
    """Three steps see three states of ten."""
    with pytest.raises(ReductionError, match="best reachable is"):
        limited(ring(2, 5), 3, "error", 1e-6)


def test_measured_errors_are_met_with_few_states():
    system = ring(4, 8)
    result = limited(system, 200, "error", 0.05)
    error = hinf_norm(difference(system, result.system))
    assert (error <= 0.05 * result.spectrum.sigma[:, 0]).all()
    assert (result.orders < 16).all()
    # no method does it with fewer: sigma_{r+1} bounds every error from below
    assert (result.orders >= (result.spectrum.sigma > 0.05 * result.spectrum.sigma[:, :1]).sum(axis=1)).all()


def test_what_would_be_unstable_is_cut_and_said():
    system = batch(*[ring(1, 6, seed=seed, low=0.9) for seed in range(8)])
    result = limited(system, 8, value=6)
    assert (result.system.a.real < 0).all()
    assert (result.orders < 6).any()
    assert any("stable" in remark for remark in result.remarks)
