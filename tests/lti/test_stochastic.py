"""Spectral factors against their definition and SciPy's Riccati solver; phase values in closed form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import solve_discrete_are, solve_discrete_lyapunov

from ssmtool.lti.hankel import balance
from ssmtool.lti.norms import to_dense
from ssmtool.lti.spectral_factor import output_matrix
from ssmtool.lti.stochastic import stochastic_balance
from tests.lti.samples import dense, diagonal, mixed, pick, ring


def random_system(seed: int, n: int, m: int) -> tuple[np.ndarray, ...]:
    """A, B, C, D and P of a random system."""
    system = dense(1, n, m, m, seed)
    A, B, C, D = system.A[0], system.B[0], system.C[0], system.D[0]
    return A, B, C, D, solve_discrete_lyapunov(A, B @ B.T)


def at(A: np.ndarray, B: np.ndarray, C: np.ndarray, D: np.ndarray, omega: float) -> np.ndarray:
    return D + C @ np.linalg.solve(np.exp(1j * omega) * np.eye(len(A)) - A, B.astype(complex))


@pytest.mark.parametrize(("n", "m"), [(1, 1), (5, 1), (6, 3), (3, 5)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_factor_has_the_spectrum_and_is_minimum_phase(n, m, seed):
    A, B, C, D, P = random_system(seed, n, m)
    C_W = output_matrix(A, B, C, D, P)
    assert C_W is not None
    R, B_W = C @ P @ C.T + D @ D.T, A @ P @ C.T + B @ D.T
    X = solve_discrete_lyapunov(A.T, C_W.T @ C_W)
    D_W = np.linalg.cholesky(R - B_W.T @ X @ B_W).T
    for omega in (0.0, 0.3, 1.7, np.pi):
        G, W = at(A, B, C, D, omega), at(A, B_W, C_W, D_W, omega)
        # G G~ = W~ W
        np.testing.assert_allclose(G @ G.conj().T, W.conj().T @ W, rtol=0, atol=1e-9 * np.abs(G).max() ** 2)
    assert (np.abs(np.linalg.eigvals(A - B_W @ np.linalg.solve(D_W, C_W))) < 1 + 1e-9).all()


@pytest.mark.parametrize(("n", "m"), [(5, 1), (6, 3)])
def test_agrees_with_another_riccati_solver(n, m):
    A, B, C, D, P = random_system(3, n, m)
    R, B_W = C @ P @ C.T + D @ D.T, A @ P @ C.T + B @ D.T
    X = solve_discrete_are(A, B_W, np.zeros((n, n)), -R, s=-C.T)
    C_W = output_matrix(A, B, C, D, P)
    assert C_W is not None
    np.testing.assert_allclose(solve_discrete_lyapunov(A.T, C_W.T @ C_W), X, rtol=0, atol=1e-9 * np.abs(X).max())


@pytest.mark.parametrize("a", [-0.7, 0.1, 0.9, 1 - 1e-6])
@pytest.mark.parametrize("b", [-0.95, 0.3, 0.99, 3.0, -1.1])
def test_one_pole_and_one_zero(a, b):
    """G = (z - b) / (z - a): the phase value is the pseudo-hyperbolic distance |a - b| / |1 - a b|, 1 if |b| > 1."""
    # 1 + (a - b) / (z - a), with C A = a - b
    system = diagonal([np.log(abs(a)) + 1j * np.pi * (a < 0)], [1], [(a - b) / a], [[1 - (a - b) / a]], real=True)
    found = stochastic_balance(balance(system, 1))
    wanted = abs(a - b) / abs(1 - a * b) if abs(b) < 1 else 1.0
    # the zero is a difference of numbers up to |(a - b) / a|, which loses a digit for a = 0.1
    assert found.s[0, 0] == pytest.approx(wanted, rel=1e-8)
    assert not found.refused[0]


@pytest.mark.parametrize("system", [ring(3, 5), mixed(2, 4, 2, 2), dense(2, 6, 2, 2)], ids=["SISO", "MIMO", "dense"])
def test_the_realisation_is_the_system_and_its_gramian_is_s(system):
    found = stochastic_balance(balance(system, system.order))
    full = to_dense(system)
    for s in range(system.systems):
        k = found.usable[s]
        A, B, C = found.A[s, :k, :k], found.B[s, :k], found.C[s, :, :k]
        for omega in (0.0, 0.5, 3.0):
            turned = full.A[s] * np.exp(-1j * omega)
            wanted = full.D[s] + full.C[s] @ np.linalg.solve(np.eye(full.order) - turned, full.B[s].astype(complex))
            np.testing.assert_allclose(at(A, B, C, found.D[s], omega), wanted, rtol=1e-8)
        P = solve_discrete_lyapunov(A, B @ B.T)
        np.testing.assert_allclose(P, np.diag(found.s[s, :k]), rtol=0, atol=1e-9)
        assert (found.s[s] <= 1 + 1e-9).all()


def test_what_has_no_invertible_factor_is_refused_alone():
    system = ring(3, 3)
    D = system.D.copy()
    D[0] = -(system.C[0] @ system.B[0]).real
    # G(1) = 0: a zero on the circle
    D[1] = -(system.C[1] @ (system.B[1] / -np.expm1(system.a[1])[:, None])).real
    found = stochastic_balance(balance(replace(system, D=D), 6))
    assert found.refused.tolist() == [True, True, False]
    alone = stochastic_balance(balance(pick(system, 2), 6))
    # batches are balanced side by side: rounding only
    np.testing.assert_allclose(found.s[2], alone.s[0], rtol=1e-8)
