"""Discretisation rules against 40-digit arithmetic, and their inverses."""

from __future__ import annotations

import mpmath as mp
import numpy as np
import pytest

from ssmtool.families._discretise import FASTEST, FASTEST_BILINEAR, bilinear_inverse, discretise, undiscretise

RULES = ("zoh", "bilinear")


def cases() -> list[tuple[complex, float]]:
    rng = np.random.default_rng(0)
    sizes, signs = 10 ** rng.uniform(-8, 3, (60, 2)), rng.choice([-1, 0, 1], 60)
    steps = 10 ** rng.uniform(-4, 0, 60)
    return [(complex(-re, s * im), float(dt)) for (re, im), s, dt in zip(sizes, signs, steps, strict=True)]


@pytest.mark.parametrize("rule", RULES)
def test_against_many_digits(rule):
    with mp.workdps(40):
        for lam, dt in cases():
            z = mp.mpc(lam) * dt
            a = z if rule == "zoh" else mp.log((1 + z / 2) / (1 - z / 2))
            bbar = mp.expm1(z) / mp.mpc(lam) if rule == "zoh" else dt / (1 - z / 2)
            got_a, got_b = discretise(rule, np.array(lam), np.array(dt))
            # The damping keeps its own relative accuracy, however small it is beside the angle; an angle of
            # hundreds of turns costs bbar what it costs the sine.
            assert abs(mp.re(a) - float(np.real(got_a))) <= 1e-15 * abs(mp.re(a))
            assert abs(mp.im(a) - float(np.imag(got_a))) <= 1e-15 * abs(a)
            assert abs(bbar - mp.mpc(complex(got_b))) <= 1e-15 * (1 + abs(a)) * abs(bbar)


@pytest.mark.parametrize("rule", RULES)
def test_inverse(rule):
    floor = FASTEST if rule == "zoh" else FASTEST_BILINEAR
    for lam, dt in cases():
        a, bbar = discretise(rule, np.array(lam), np.array(dt))
        if np.real(a) < floor:
            continue
        back, back_b = undiscretise(rule, a, np.array(dt))
        assert abs(back - lam) <= 1e-13 * abs(lam) * max(1, abs(dt * lam) if rule == "bilinear" else 1)
        assert abs(back_b - bbar) <= 1e-13 * abs(bbar) * max(1, abs(dt * lam) if rule == "bilinear" else 1)


def test_no_dynamics_at_all():
    a, bbar = discretise("zoh", np.array(0j), np.array(0.1))
    assert (a, bbar) == (0, 0.1)


@pytest.mark.parametrize("rule", RULES)
def test_very_fast_poles_stay_finite_in_single_precision(rule):
    lam, bbar = undiscretise(rule, np.array([-690.0, -1e9, -690 + 1j * np.pi]), np.array(1e-3))
    assert np.isfinite(lam.astype(np.complex64)).all()
    assert np.isfinite((1 / bbar).astype(np.complex64)).all()
    again, _ = discretise(rule, lam, np.array(1e-3))
    assert (np.exp(np.real(again)) <= 1.0001e-6).all()


def test_negative_real_eigenvalues_are_real_under_the_bilinear_rule():
    lam, _ = bilinear_inverse(np.array([-0.3 + 1j * np.pi, -0.3 - 1j * np.pi, -0.3 + 3j * np.pi]), np.array(0.1))
    assert not np.imag(lam).any()
    np.testing.assert_allclose(np.real(lam), 20 * (-np.exp(-0.3) - 1) / (1 - np.exp(-0.3)), rtol=1e-14)
