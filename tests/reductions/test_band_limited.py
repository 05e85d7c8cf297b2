"""Band-limited truncation: better within its band, balanced truncation for the whole circle, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from ssmtool.errors import ReductionError, UsageError
from ssmtool.lti.impulse import impulse_response
from ssmtool.lti.norms import difference, hinf_norm
from ssmtool.lti.systems import System
from ssmtool.reductions import balanced, band_limited
from ssmtool.reductions._contract import Options, Result, Target
from tests.lti.samples import dense, diagonal, mixed, ring


def limited(system: System, band: tuple[float, float] | None, target: Target | int = 4) -> Result:
    wanted = Target("rank", target) if isinstance(target, int) else target
    return band_limited.reduce(system, wanted, options=Options(band=band))


def missed(system: System, reduced: System, band: tuple[float, float]) -> np.ndarray:
    """(S,) energy of the frequency response's error within the band."""
    h = impulse_response(system, 2048) - impulse_response(reduced, 2048)
    omega = np.linspace(*band, 200)
    G = h @ np.exp(-1j * np.arange(2048)[:, None] * omega)
    return np.square(np.abs(G)).sum(axis=(1, 2, 3))


@pytest.mark.parametrize("system", [ring(3, 5), mixed(2, 5, 2, 3), dense(2, 6, 2, 2)], ids=["SISO", "MIMO", "dense"])
def test_the_whole_circle_is_balanced_truncation(system):
    h = impulse_response(balanced.reduce(system, Target("rank", 4)).system, 100)
    got = impulse_response(limited(system, (0, np.pi)).system, 100)
    np.testing.assert_allclose(got, h, rtol=0, atol=1e-9 * np.abs(h).max())


def test_pi_may_be_rounded_up():
    system = ring(1, 4)
    one, two = (limited(system, (0.0, high)).system for high in (np.pi, 3.1416))
    np.testing.assert_array_equal(one.C, two.C)


@pytest.mark.parametrize("band", [(0.0, 0.3), (1.0, 1.5)])
def test_closer_within_the_band(band):
    system = ring(6, 8, seed=4)
    ours = missed(system, limited(system, band, 6).system, band)
    theirs = missed(system, balanced.reduce(system, Target("rank", 6)).system, band)
    assert (ours < theirs / 3).all()


def test_a_loud_mode_outside_the_band_is_dropped_before_a_quiet_one_inside():
    system = diagonal(np.log([0.95, 0.95]) + 1j * np.array([0.2, 2.5]), [1, 1], [1, 3])
    result = limited(system, (0.0, 0.4), 2)
    assert result.system.a[0, 0].imag == pytest.approx(0.2, abs=0.02)
    assert balanced.reduce(system, Target("rank", 2)).system.a[0, 0].imag == pytest.approx(2.5, abs=0.02)


@pytest.mark.parametrize("band", [None, (-0.1, 1.0), (0.0, 3.2), (1.0, 1.0), (2.0, 1.0), (np.nan, 1.0), (0.0, np.nan)])
def test_bands_that_cannot_be(band):
    with pytest.raises(UsageError, match="band"):
        limited(ring(1, 3), band)


def test_errors_are_met_or_the_best_is_named():
    system = ring(3, 6)
    result = limited(system, (0.0, 2.0), Target("error", 0.05))
    assert (hinf_norm(difference(system, result.system)) <= 0.05 * result.spectrum.sigma[:, 0]).all()
    with pytest.raises(ReductionError, match="best reachable"):
        limited(ring(3, 12, low=0.2), (0.0, 1e-3), Target("error", 1e-8))


def test_what_would_be_unstable_is_cut_and_said():
    result = limited(ring(16, 8, low=0.9), (0.0, 0.2), 8)
    assert (result.system.a.real < 0).all()
    assert (result.orders < 8).any()
    assert any("stable" in remark for remark in result.remarks)
