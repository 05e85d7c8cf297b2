"""Gramian factors over a band against adaptive quadrature, closed forms, and the Gramian of all frequencies."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad_vec
from scipy.linalg import solve_discrete_lyapunov

from ssmtool.lti.band import band_factor
from ssmtool.lti.realisation import Realisation, of_dense, of_slots
from ssmtool.lti.systems import DiagonalSystem, System
from tests.lti.samples import dense, diagonal, mixed, realisation

CPU, ALL = torch.device("cpu"), slice(None)


def stored(system: System) -> Realisation:
    return of_slots(system, ALL, CPU) if isinstance(system, DiagonalSystem) else of_dense(system, ALL, CPU)


def gramian(system: Realisation, low: float, high: float) -> np.ndarray:
    L = band_factor(system, low, high)
    assert L.shape[2] <= L.shape[1]
    return (L @ L.mT).numpy()


SYSTEMS = {"diagonal": mixed(2, 3, 2, 2), "dense": dense(2, 5, 2, 2)}
each = pytest.mark.parametrize("kind", SYSTEMS)


@each
@pytest.mark.parametrize("band", [(0.0, 0.4), (0.3, 2.5), (3.0, np.pi)])
def test_equals_adaptive_quadrature(kind, band):
    system = SYSTEMS[kind]
    P, Q = gramian(stored(system), *band), gramian(stored(system).dual(), *band)
    for s in range(2):
        A, B, C = realisation(system, s)
        for got, (F, G) in ((P[s], (A, B)), (Q[s], (A.T, C.T))):

            def density(omega: float, F: np.ndarray = F, G: np.ndarray = G) -> np.ndarray:
                H = np.linalg.solve(np.eye(len(F)) - np.exp(-1j * omega) * F, G.astype(complex))
                return (H @ H.conj().T).real / np.pi

            wanted, _ = quad_vec(density, *band, epsrel=1e-12, epsabs=0, limit=2000)
            np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-10 * np.abs(wanted).max())


@each
def test_all_frequencies_are_the_lyapunov_equation(kind):
    system = SYSTEMS[kind]
    P = gramian(stored(system), 0, np.pi)
    for s in range(2):
        A, B, _ = realisation(system, s)
        wanted = solve_discrete_lyapunov(A, B @ B.T)
        np.testing.assert_allclose(P[s], wanted, rtol=0, atol=1e-12 * np.abs(wanted).max())


@given(st.floats(0.01, 3.1), st.integers(0, 100))
def test_bands_add_up(cut, seed):
    system = stored(mixed(1, 4, 1, 1, seed))
    whole = gramian(system, 0, np.pi)
    np.testing.assert_allclose(
        gramian(system, 0, cut) + gramian(system, cut, np.pi), whole, rtol=0, atol=1e-12 * np.abs(whole).max()
    )


@pytest.mark.parametrize("a", [-1e-9, -1e-3, -0.5, -20.0])
@pytest.mark.parametrize("band", [(0.0, 1.0), (1e-7, 1e-2), (2.0, np.pi)])
def test_one_real_pole(a, band):
    """∫ d omega / |1 - l e^{-i omega}|^2 = 2 / (1 - l^2) atan((1 + l) / (1 - l) tan(omega / 2)), in 40 digits."""
    with mpmath.workdps(40):
        pole = mpmath.exp(mpmath.mpf(a))

        def primitive(omega: float):
            if omega == np.pi:
                return mpmath.pi / (1 - pole**2)
            return 2 / (1 - pole**2) * mpmath.atan((1 + pole) / (1 - pole) * mpmath.tan(mpmath.mpf(omega) / 2))

        wanted = float((primitive(band[1]) - primitive(band[0])) / mpmath.pi)
    got = gramian(stored(diagonal([a], [1], [1], real=True)), *band)
    assert got[0, 0, 0] == pytest.approx(wanted, rel=1e-12)
