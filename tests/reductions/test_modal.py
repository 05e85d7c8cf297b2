"""Modal truncation: every score against its definition, and what is kept against the best subset of modes.

Norms of modes are checked on a frequency grid of 2e5 points (right to about 1e-9 for the dampings used) and on sums of
impulse responses that have died out; both know nothing of the closed forms.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from ssmtool.errors import ReductionError, UsageError
from ssmtool.lti.impulse import impulse_response
from ssmtool.lti.minimal import minimal
from ssmtool.lti.modes import mode_h2_norms, mode_peak_gains
from ssmtool.lti.norms import difference, h2_norm
from ssmtool.lti.systems import DiagonalSystem
from ssmtool.reductions._contract import SCORES, Options, Target
from ssmtool.reductions.modal import normalised, reduce, scores
from tests.lti.samples import dense, diagonal, mixed, real_stored, ring

MODES = {
    "SISO": ring(2, 5),
    "SISO with real poles": mixed(2, 5),
    "real-stored": real_stored(2, 5),
    "SIMO": ring(2, 4, 1, 3),
    "MIMO": mixed(2, 4, 3, 2),
    "MIMO of many inputs": ring(1, 4, 20, 18),
    "MIMO real-stored": real_stored(2, 4, 2, 3),
    "a slow pair near the real axis": diagonal([-1e-2 + 1e-3j, -1e-2 + 3.14j], [1, 2], [1j, 1 - 1j]),
}

each_system = pytest.mark.parametrize("system", MODES.values(), ids=MODES.keys())


def alone(system: DiagonalSystem, s: int, i: int) -> DiagonalSystem:
    """Slot i of system s, without feedthrough."""
    B, C = system.B[s : s + 1, i : i + 1], system.C[s : s + 1, :, i : i + 1]
    return DiagonalSystem(system.a[s : s + 1, i : i + 1], B, C, np.zeros_like(system.D[:1]), real=system.real)


@each_system
def test_h2_norms_of_modes_are_sums_of_squares(system):
    got = mode_h2_norms(system)
    for s in range(system.systems):
        for i in range(system.slots):
            h = impulse_response(alone(system, s, i), 4000)  # |lambda| <= 0.99: what is left out is below 1e-34
            assert got[s, i] == pytest.approx(np.sqrt(np.square(h).sum()), rel=1e-12)


@each_system
def test_peak_gains_of_modes_are_the_largest_of_a_fine_grid(system):
    got = mode_peak_gains(system)
    omega = np.linspace(0, np.pi, 200_001)
    for s in range(system.systems):
        for i in range(system.slots):
            z, lam = np.exp(-1j * omega), complex(np.exp(system.a[s, i]))
            K = np.outer(system.C[s, :, i], system.B[s, i])
            coarse = np.argsort(-np.abs(1 / (1 - lam * z)) - np.abs(1 / (1 - lam.conjugate() * z)))[:20_000:40]
            extra = np.arange(0, len(omega), 4000)
            best = 0.0
            for f in (coarse, extra):
                G = K / (1 - lam * z[f, None, None]) / 2 + K.conj() / (1 - lam.conjugate() * z[f, None, None]) / 2
                best = max(best, np.linalg.norm(G, 2, axis=(1, 2)).max())
            assert best <= got[s, i] * (1 + 1e-12)
            # every fortieth of the points near the pole: 6e-4 apart, in peaks at least 0.01 wide
            assert best >= got[s, i] * (1 - 2e-3)


def test_the_peak_gain_of_a_real_pole_is_its_steady_gain():
    system = diagonal([np.log(0.9), -1e-7, np.log(0.5) + 1j * np.pi], [1, 2, 3], [2, 1, 1], real=True)
    expected = [2 / 0.1, 2 / -np.expm1(-1e-7), 3 / 0.5]
    np.testing.assert_allclose(mode_peak_gains(system)[0], expected, rtol=1e-12)


def test_the_peak_gain_of_a_pair_solves_its_quadratic():
    """|G|^2 of one input and output is (linear / quadratic) in cos omega: its stationary points have a closed form."""
    for lam, w in [(0.9 * np.exp(0.3j), 1 + 2j), (0.99 * np.exp(2.5j), 1j), (0.4 * np.exp(1j), 1.0), (0.7j, -2 + 1j)]:
        re, im = w.real, (w * np.conj(lam)).real  # G = (Re w - Re(w conj(lam)) v) / ((1 - lam v)(1 - conj(lam) v))
        numerator = np.poly1d([-2 * re * im, re**2 + im**2])
        q, t = abs(lam) ** 2, lam.real
        denominator = np.poly1d([4 * q, -4 * t * (1 + q), (1 - q) ** 2 + 4 * t**2])
        x = (numerator.deriv() * denominator - numerator * denominator.deriv()).roots
        x = np.concatenate([np.real(x[np.isreal(x)]), [-1.0, 1.0]])
        x = x[np.abs(x) <= 1]
        peak = np.sqrt((numerator(x) / denominator(x)).max())
        got = mode_peak_gains(diagonal([np.log(lam)], [w], [1]))[0, 0]
        assert got == pytest.approx(peak, rel=1e-12)


def test_last_and_aire_are_their_formulas():
    system = ring(2, 4, 2, 3)
    lam = np.abs(np.exp(system.a))
    gain = (np.square(np.abs(system.B)).sum(2)) * np.square(np.abs(system.C)).sum(1)
    np.testing.assert_allclose(scores(system, "last"), gain / (1 - lam) ** 2, rtol=1e-12)
    np.testing.assert_allclose(scores(system, "aire"), gain / (1 - lam**2), rtol=1e-12)


@each_system
def test_last_bounds_the_peak_gain_and_aire_the_h2_norm(system):
    assert (scores(system, "hinf") <= scores(system, "last") * (1 + 1e-12)).all()
    assert (scores(system, "h2") <= scores(system, "aire") * (1 + 1e-12)).all()


def test_normalised_is_each_score_over_itself_and_all_larger():
    score = np.array([[1.0, 4.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0], [3e300, 3e300, 1e300, 1e-300]])
    expected = [[1 / 7, 1.0, 1 / 3, 0.0], [0.0] * 4, [1.0, 1 / 2, 1 / 7, 1e-300 / 7e300]]
    np.testing.assert_allclose(normalised(score), expected, rtol=1e-15)


def test_normalised_does_not_see_the_scale_and_keeps_the_order():
    score = np.random.default_rng(0).uniform(0.1, 1, (3, 6))
    np.testing.assert_allclose(normalised(score * [[1e-200], [1.0], [1e200]]), normalised(score), rtol=1e-13)
    assert (np.argsort(normalised(score), axis=1) == np.argsort(score, axis=1)).all()


def test_scores_differ_in_what_they_keep():
    """A slow faint mode has the larger peak, a fast loud one the larger energy."""
    system = diagonal([np.log(0.999), np.log(0.5)], [1, 1], [0.01, 1.0], real=True)
    kept = {}
    for score in SCORES:
        result = reduce(system, Target("rank", 1), options=Options(score=score))
        kept[score] = float(np.exp(result.system.a[0, 0]).real)
    assert kept == {"last": pytest.approx(0.999), "hinf": pytest.approx(0.999)} | dict.fromkeys(
        ("aire", "h2"), pytest.approx(0.5)
    )


@pytest.mark.parametrize("score", SCORES)
def test_modes_without_overlap_are_kept_as_the_best_subset_is(score):
    """Three narrow resonances far apart hardly interact: the subset with the least H2 error is found by all scores."""
    a = np.log(0.995) + 1j * np.array([0.3, 1.2, 2.2])
    system = diagonal(a, [1, 1, 1], [1.0, 3.0, 2.0])
    result = reduce(system, Target("rank", 4), options=Options(score=score))

    def subset(kept):
        return diagonal(a[kept], np.ones(2), system.C[0, 0][kept])

    errors = {kept: h2_norm(difference(system, subset(list(kept))))[0] for kept in combinations(range(3), 2)}
    assert h2_norm(difference(system, result.system))[0] == pytest.approx(min(errors.values()), rel=1e-9)


def test_a_pair_that_does_not_fit_makes_room_for_a_smaller_real_mode():
    system = mixed(1, 3)
    system.C[:, :, 0] *= 1e-3
    system.C[:, :, 1] *= 1e-4
    result = reduce(system, Target("rank", 1))
    assert result.orders.tolist() == result.slots.tolist() == [1]
    assert np.exp(result.system.a[0, 0]) == pytest.approx(np.exp(system.a[0, 0].real))


@pytest.mark.parametrize("score", SCORES)
def test_equal_poles_are_scored_as_one(score):
    """Two slots with residues that almost cancel are one small mode, not two large ones."""
    a = np.log(0.9) + 1j * np.array([0.5, 0.5, 2.0])
    system = diagonal(a, [1, 1, 1], [1.0, -0.999, 0.1])
    result = reduce(system, Target("rank", 2), options=Options(score=score))
    assert result.system.a[0, 0] == pytest.approx(a[2])


def test_the_score_of_what_is_merged_is_that_of_the_minimal_system():
    system = ring(1, 3, 2, 2)
    modes = minimal(system)
    one = scores(DiagonalSystem(modes.a, modes.B, modes.C, system.D), "last")
    np.testing.assert_allclose(one, scores(system, "last"), rtol=1e-12)  # balancing the norms changes no product


def test_bad_input_is_refused():
    with pytest.raises(UsageError, match=r"no score 'best'. Use one of last, aire, hinf, h2"):
        reduce(ring(1, 2), Target("rank", 2), options=Options(score="best"))
    with pytest.raises(ReductionError, match="stores its poles"):
        reduce(dense(1, 3), Target("rank", 2))
