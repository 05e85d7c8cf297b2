"""From a dense realisation to poles and residues: the response is kept, also where eigenvectors are ill-conditioned.

Errors are of the impulse response over 300 steps, relative to its largest value.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmtool.lti.diagonalise import diagonalise
from ssmtool.lti.hankel import balance
from ssmtool.lti.impulse import impulse_response
from ssmtool.lti.systems import DenseSystem
from tests.lti.samples import dense, mixed, ring

LENGTH = 300
SHAPES = [(1, 1), (1, 3), (2, 3)]


def whole(system: DenseSystem):
    return diagonalise(system.A, system.B, system.C, system.D, np.full(system.systems, system.order))


def errors(system: DenseSystem, again) -> np.ndarray:
    h = impulse_response(system, LENGTH)
    return np.abs(impulse_response(again, LENGTH) - h).max(axis=(1, 2, 3)) / np.abs(h).max(axis=(1, 2, 3))


def with_state_matrix(A: np.ndarray, inputs: int, outputs: int, seed: int = 0) -> DenseSystem:
    rng = np.random.default_rng(seed)
    n = len(A)
    B, C = rng.standard_normal((1, n, inputs)), rng.standard_normal((1, outputs, n))
    return DenseSystem(A[None], B, C, rng.standard_normal((1, outputs, inputs)))


def close_poles(gap: float) -> np.ndarray:
    """0.9 and 0.9 + gap, coupled, among four others, in an orthogonal basis."""
    A = np.diag([0.9, 0.9 + gap, 0.5, 0.3, 0.2, 0.1])
    A[0, 1] = 1
    T = np.linalg.qr(np.random.default_rng(1).standard_normal((6, 6)))[0]
    return T @ A @ T.T


def complex_jordan() -> np.ndarray:
    R = 0.9 * np.array([[np.cos(1), -np.sin(1)], [np.sin(1), np.cos(1)]])
    return np.block([[R, np.eye(2)], [np.zeros((2, 2)), R]])


ILL_CONDITIONED = {
    "Jordan block of 2": 0.8 * np.eye(2) + 0.5 * np.eye(2, k=1),
    "Jordan block of 3": 0.8 * np.eye(3) + 0.5 * np.eye(3, k=1),
    "Jordan block of 5": 0.8 * np.eye(5) + 0.5 * np.eye(5, k=1),
    "complex Jordan block": complex_jordan(),
    "nilpotent": np.eye(4, k=1),
}


@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
@pytest.mark.parametrize("order", [1, 2, 7])
def test_well_conditioned_systems_are_diagonalised_directly(order, inputs, outputs):
    system = dense(3, order, inputs, outputs, seed=order)
    found = whole(system)
    assert found.method == ("direct",) * 3
    # eigenvectors of random matrices have conditions up to a few hundred
    assert (errors(system, found.system) < 1e-12).all()
    assert (found.error < 1e-10).all()


@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
@pytest.mark.parametrize("A", ILL_CONDITIONED.values(), ids=ILL_CONDITIONED.keys())
def test_defective_matrices_are_mended(A, inputs, outputs):
    """The plain decomposition has no usable eigenvectors here; a perturbed or refitted one is right to 1e-6."""
    system = with_state_matrix(A, inputs, outputs)
    found = whole(system)
    assert found.method[0] in ("perturbed", "refit")
    assert errors(system, found.system)[0] < 1e-6
    assert np.linalg.cond(np.linalg.eig(A)[1]) > 1e7


@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
@pytest.mark.parametrize("A", ILL_CONDITIONED.values(), ids=ILL_CONDITIONED.keys())
def test_the_claimed_error_is_the_measured_one(A, inputs, outputs):
    """Claimed on the frequency response, measured here on a grid of its own; what is returned is what was judged."""
    system = with_state_matrix(A, inputs, outputs, seed=3)
    found = whole(system)
    plain = DenseSystem(system.A, system.B, system.C, 0 * system.D)
    exact = np.fft.rfft(impulse_response(plain, 1024))
    got = np.fft.rfft(impulse_response(found.system, 1024)) - np.fft.rfft(impulse_response(system, 1024))
    assert np.abs(got).max() / np.abs(exact).max() < 10 * found.error[0] + 1e-12


@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
@pytest.mark.parametrize("gap", [1e-3, 1e-6, 1e-9, 1e-12, 0.0])
def test_two_poles_however_close(gap, inputs, outputs):
    system = with_state_matrix(close_poles(gap), inputs, outputs)
    assert errors(system, whole(system).system)[0] < 1e-6


def test_the_best_of_the_candidates_beats_the_plain_decomposition():
    """A Jordan block of 4 in an orthogonal basis: rounding splits the pole, residues of 1e12 cancel."""
    T = np.linalg.qr(np.random.default_rng(1).standard_normal((4, 4)))[0]
    A = T @ (0.6 * np.eye(4) + np.eye(4, k=1)) @ T.T
    system = with_state_matrix(A, 2, 3)
    lam, X = np.linalg.eig(A)
    residues = np.linalg.solve(X, system.B[0].astype(complex))
    h = impulse_response(system, LENGTH)[0]
    powers = lam[:, None] ** np.arange(LENGTH)
    plain = np.einsum("pn,nm,nl->pml", system.C[0] @ X, residues, powers).real
    plain[..., 0] += system.D[0]
    assert errors(system, whole(system).system)[0] < 1e-6 < np.abs(plain - h).max() / np.abs(h).max()


def test_one_slot_per_real_pole_and_per_complex_pair():
    A = np.zeros((5, 5))
    A[:2, :2] = 0.8 * np.array([[np.cos(1), -np.sin(1)], [np.sin(1), np.cos(1)]])
    A[2, 2], A[3, 3], A[4, 4] = 0.5, -0.3, 0.0
    found = whole(with_state_matrix(A, 2, 2))
    assert found.slots.tolist() == [4]
    assert found.orders.tolist() == [5]
    lam = np.sort_complex(np.exp(found.system.a[0]))
    np.testing.assert_allclose(lam, [-0.3, 0.0, 0.8 * np.exp(1j), 0.5], rtol=0, atol=1e-12)
    assert (found.system.a.real > -1e3).all()


def test_real_poles_have_real_weights():
    found = whole(with_state_matrix(np.diag([0.5, -0.3, 0.9]), 2, 2))
    assert not found.system.B.imag.any()
    assert not found.system.C.imag.any()


@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_leading_blocks_of_different_orders(inputs, outputs):
    """Each system its own order, zero included; unused slots have B = C = 0 and a stable pole."""
    balanced = balance(mixed(4, 5, inputs, outputs), 7)
    orders = np.array([7, 3, 0, 4])
    found = diagonalise(balanced.A, balanced.B, balanced.C, balanced.D, orders)
    assert (found.orders <= orders).all()
    assert found.orders[2] == found.slots[2] == 0
    for s, r in enumerate(found.orders):
        cut = DenseSystem(balanced.A[[s], :r, :r], balanced.B[[s], :r], balanced.C[[s], :, :r], balanced.D[[s]])
        h = impulse_response(cut, LENGTH)[0] if r else np.zeros((outputs, inputs, LENGTH))
        if not r:
            h[..., 0] = balanced.D[s]
        got = impulse_response(found.system, LENGTH)[s]
        np.testing.assert_allclose(got, h, rtol=0, atol=1e-11 * max(np.abs(h).max(), 1e-300))
        assert not found.system.B[s, found.slots[s] :].any()
        assert not found.system.C[s, :, found.slots[s] :].any()
    assert (found.system.a.real < 0).all()
    np.testing.assert_array_equal(found.system.D, balanced.D)


def test_no_system_keeps_a_state():
    balanced = balance(ring(2, 3), 4)
    found = diagonalise(balanced.A, balanced.B, balanced.C, balanced.D, np.zeros(2, dtype=int))
    assert found.slots.tolist() == found.orders.tolist() == [0, 0]
    h = impulse_response(found.system, 10)
    np.testing.assert_array_equal(h[..., 0], balanced.D)
    assert not h[..., 1:].any()


def test_orders_given_are_not_changed_in_place():
    balanced = balance(ring(2, 3), 4)
    orders = np.array([4, 2])
    diagonalise(balanced.A, balanced.B, balanced.C, balanced.D, orders)
    assert orders.tolist() == [4, 2]


def test_an_unstable_block_is_cut_until_it_is_stable():
    """What rounding may do to a truncation: a leading state on the circle stays out, the order says so."""
    A = np.diag([0.9, 0.5, 1.0])
    found = whole(with_state_matrix(A, 1, 1))
    assert found.orders.tolist() == [2]
    assert (found.system.a.real < 0).all()


@given(st.integers(1, 6), st.sampled_from(SHAPES), st.integers(0, 2**32 - 1), st.floats(0.05, 0.999))
def test_any_stable_matrix_comes_back_stable_and_equal(order, shape, seed, radius):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((order, order))
    A = np.triu(A) if seed % 2 else A
    A *= radius / np.abs(np.linalg.eigvals(A)).max()
    system = with_state_matrix(A, *shape, seed=seed)
    found = whole(system)
    assert (found.system.a.real < 0).all()
    assert found.slots[0] <= order == found.orders[0]
    assert errors(system, found.system)[0] < 1e-6
