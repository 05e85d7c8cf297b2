"""Gramian factors over a finite horizon against the sums they stand for, and the Gramian of all steps."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import solve_discrete_lyapunov

from ssmtool.lti.horizon import horizon_factor
from ssmtool.lti.realisation import Realisation, of_dense, of_slots
from ssmtool.lti.systems import DiagonalSystem, System
from tests.lti.samples import dense, diagonal, mixed, realisation

CPU, ALL = torch.device("cpu"), slice(None)


def stored(system: System) -> Realisation:
    return of_slots(system, ALL, CPU) if isinstance(system, DiagonalSystem) else of_dense(system, ALL, CPU)


def summed(A: np.ndarray, B: np.ndarray, steps: int) -> np.ndarray:
    P, X = np.zeros_like(A), B
    for _ in range(steps):
        P, X = P + X @ X.T, A @ X
    return P


@given(st.integers(1, 70), st.integers(1, 3), st.booleans(), st.integers(0, 1000))
def test_equals_the_sum(steps, inputs, diagonal_form, seed):
    system = mixed(2, 4, inputs, 2, seed) if diagonal_form else dense(2, 5, inputs, 2, seed)
    pieces = stored(system)
    L = horizon_factor(pieces, steps).numpy()
    R = horizon_factor(pieces.dual(), steps).numpy()
    assert L.shape[2] <= L.shape[1]
    for s in range(2):
        A, B, C = realisation(system, s)
        for factor, P in ((L[s], summed(A, B, steps)), (R[s], summed(A.T, C.T, steps))):
            scale = np.sqrt(np.outer(P.diagonal(), P.diagonal()))
            # every state right to a few roundings of its own size; real slots' second state is rounding of the pole pi
            np.testing.assert_allclose(factor @ factor.T / P.max(), P / P.max(), rtol=0, atol=1e-12)
            live = np.outer(P.diagonal() > 1e-20, P.diagonal() > 1e-20)
            assert (np.abs(factor @ factor.T - P)[live] <= 1e-12 * scale[live]).all()


@pytest.mark.parametrize("diagonal_form", [True, False])
def test_no_horizon_is_the_lyapunov_equation(diagonal_form):
    system = mixed(2, 4, 2, 2) if diagonal_form else dense(2, 5, 2, 2)
    L = horizon_factor(stored(system), None).numpy()
    for s in range(2):
        A, B, _ = realisation(system, s)
        P = solve_discrete_lyapunov(A, B @ B.T)
        np.testing.assert_allclose(L[s] @ L[s].T, P, rtol=0, atol=1e-12 * np.abs(P).max())


def test_small_time_limited_singular_values_keep_digits():
    """Real poles, S4D-Real's first eight: sqrt(eig(P Q)) would lose everything below 1e-8."""
    n, steps = 8, 100
    lam = -np.arange(1.0, n + 1)
    system = diagonal(0.05 * lam, np.ones(n), np.ones(n), real=True)
    pieces = of_slots(system, ALL, CPU)
    L = horizon_factor(pieces, steps)[0, :n].numpy()
    R = horizon_factor(pieces.dual(), steps)[0, :n].numpy()
    with mpmath.workdps(60):
        poles = [mpmath.exp(mpmath.mpf(float(a.real))) for a in system.a[0]]
        P = mpmath.matrix(n, n)
        for i in range(n):
            for j in range(n):
                q = poles[i] * poles[j]
                P[i, j] = (1 - q**steps) / (1 - q)
        # B = C: both Gramians are P, and sigma its eigenvalues
        exact = sorted((float(abs(x)) for x in mpmath.eigsy(P, eigvals_only=True)), reverse=True)
    got = np.linalg.svd(R.T @ L, compute_uv=False)[:n]
    # absolute accuracy of a product of factors with backward error eps: 1e-15 sigma_1
    np.testing.assert_allclose(got, exact, rtol=0, atol=1e-14 * exact[0])
    assert exact[7] < 1e-10 * exact[0]
    assert got[7] == pytest.approx(exact[7], rel=1e-3)


def test_a_horizon_of_a_million_steps_near_the_circle():
    """One state: (1 - q^T) / (1 - q) with q = lambda^2."""
    a, steps = -1e-7, 10**6
    L = horizon_factor(of_slots(diagonal([a], [3], [1], real=True), ALL, CPU), steps)
    wanted = 9 * np.expm1(2 * a * steps) / np.expm1(2 * a)
    assert float(L.square().sum()) == pytest.approx(wanted, rel=1e-12)
