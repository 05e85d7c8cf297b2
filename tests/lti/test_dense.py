"""Dense systems: Hammarling's factors against scipy's Lyapunov solver, and the split into stable and unstable parts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg

from ssmtool.lti.dense import gramian_factors, stable_part
from ssmtool.lti.hankel import hankel_singular_values
from ssmtool.lti.impulse import impulse_response
from ssmtool.lti.norms import to_dense
from ssmtool.lti.systems import DenseSystem
from tests.lti.samples import dense, mixed, real_stored, ring

RTOL = 1e-12  # of the largest entry; scipy's solver is good to about 1e-14 / (1 - |lambda|)^2


def check(A: np.ndarray, B: np.ndarray, C: np.ndarray) -> None:
    L, R = gramian_factors(A, B, C)
    P, Q = linalg.solve_discrete_lyapunov(A, B @ B.T), linalg.solve_discrete_lyapunov(A.T, C.T @ C)
    np.testing.assert_allclose(L @ L.T, P, rtol=0, atol=RTOL * np.abs(P).max())
    np.testing.assert_allclose(R @ R.T, Q, rtol=0, atol=RTOL * np.abs(Q).max())


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (1, 3), (3, 1), (2, 2), (9, 12)])
@pytest.mark.parametrize("order", [1, 2, 7, 20])
def test_factors_solve_both_stein_equations(order, inputs, outputs):
    system = dense(1, order, inputs, outputs, seed=order)
    check(system.A[0], system.B[0], system.C[0])


def test_defective_and_singular_a():
    jordan = 0.5 * np.eye(5) + 0.3 * np.eye(5, k=1)
    nilpotent = np.eye(5, k=1)
    rng = np.random.default_rng(0)
    B, C = rng.standard_normal((5, 2)), rng.standard_normal((2, 5))
    for A in (jordan, nilpotent, np.zeros((5, 5))):
        check(A, B, C)


def test_unreachable_and_unseen_states():
    system = dense(1, 6, 2, 2)
    A, B, C = system.A[0], system.B[0], system.C[0]
    check(A, 0 * B, C)
    check(A, B, 0 * C)
    block = np.kron(np.eye(2), A)
    check(block, np.concatenate([B, 0 * B]), np.concatenate([C, C], 1))


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (2, 3)])
def test_hankel_singular_values_agree_with_those_of_the_diagonal_form(inputs, outputs):
    system = mixed(3, 5, inputs, outputs)
    sigma = hankel_singular_values(system).sigma
    # a Hammarling factor is right to 1e-15 sigma_1 times the (moderate) conditioning of the Lyapunov operator
    np.testing.assert_allclose(hankel_singular_values(to_dense(system)).sigma, sigma, rtol=0, atol=1e-12 * sigma.max())


@pytest.mark.parametrize("make", [ring, mixed, real_stored])
def test_dense_form_has_the_same_impulse_response(make):
    system = make(2, 4, 2, 3)
    h = impulse_response(system, 40)
    np.testing.assert_allclose(impulse_response(to_dense(system), 40), h, rtol=0, atol=1e-13 * np.abs(h).max())


def with_unstable(stable: DenseSystem, growth: list[float], seed: int = 0) -> DenseSystem:
    """The stable system and a few unstable or marginal modes, mixed by a random change of basis."""
    rng = np.random.default_rng(seed)
    n, k = stable.order, len(growth)
    A = np.zeros((n + k, n + k))
    A[:n, :n], A[n:, n:] = stable.A[0], np.diag(growth)
    B = np.concatenate([stable.B[0], rng.standard_normal((k, stable.inputs))])
    C = np.concatenate([stable.C[0], rng.standard_normal((stable.outputs, k))], 1)
    T = rng.standard_normal(A.shape)
    X = np.linalg.inv(T)
    return DenseSystem((T @ A @ X)[None], (T @ B)[None], (C @ X)[None], stable.D)


@pytest.mark.parametrize("growth", [[1.2], [-1.5, 1.1], [3.0, -2.0, 1.01]])
def test_the_stable_part_is_recovered_behind_any_basis(growth):
    stable = dense(1, 5, 2, 2, radius=0.8)
    whole = with_unstable(stable, growth)
    A, B, C, dropped = stable_part(whole.A[0], whole.B[0], whole.C[0])
    assert dropped == len(growth)
    assert np.abs(np.linalg.eigvals(A)).max() < 1
    h = impulse_response(DenseSystem(A[None], B[None], C[None], stable.D), 40)
    # the change of basis and the Sylvester equation cost a few digits
    np.testing.assert_allclose(h, impulse_response(stable, 40), rtol=0, atol=1e-10 * np.abs(h).max())


def test_a_stable_system_is_its_own_stable_part():
    system = dense(1, 5, 2, 2)
    A, B, C, dropped = stable_part(system.A[0], system.B[0], system.C[0])
    assert dropped == 0
    assert A is system.A[0] or np.array_equal(A, system.A[0])
    assert np.array_equal(B, system.B[0])
    assert np.array_equal(C, system.C[0])


@pytest.mark.parametrize("growth", [[1.2], [-1.5, 1.1]])
def test_unstable_states_are_infinite_and_first(growth):
    stable = dense(1, 5, 2, 2, radius=0.8)
    spectrum = hankel_singular_values(with_unstable(stable, growth))
    k = len(growth)
    assert spectrum.unstable.tolist() == [k]
    assert np.isinf(spectrum.sigma[0]).tolist() == [True] * k + [False] * 5
    expected = hankel_singular_values(stable).sigma[0]
    np.testing.assert_allclose(spectrum.sigma[0, k:], expected, rtol=0, atol=1e-10 * expected[0])


def test_marginal_dense_states_are_not_stable():
    A = np.diag([1.0, 0.5])
    spectrum = hankel_singular_values(DenseSystem(A[None], np.ones((1, 2, 1)), np.ones((1, 1, 2)), np.zeros((1, 1, 1))))
    assert spectrum.unstable.tolist() == [1]
    assert spectrum.sigma[0, 1] == pytest.approx(1 / 0.75, rel=1e-14)
