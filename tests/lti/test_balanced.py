"""A balanced realisation: same system, both Gramians diag(sigma).

Tolerances: the projection works in float64, so relative to sqrt(sigma_i sigma_j) an entry of a Gramian is right to
about 1e-14 sigma_1 / sqrt(sigma_i sigma_j); states down to sigma / sigma_1 = 1e-6 are compared at 1e-7.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg

from ssmtool.lti.hankel import Balanced, balance, hankel_singular_values
from ssmtool.lti.impulse import impulse_response
from ssmtool.lti.systems import DenseSystem, DiagonalSystem, System
from tests.lti.samples import batch, dense, diagonal, mixed, pick, real_stored, ring, s4d_real, slots


def nearly_real(inputs: int, outputs: int) -> DiagonalSystem:
    system = ring(2, 4, inputs, outputs, seed=4)
    system.a[:, 1] = -0.2 + 1e-6j
    return system


SYSTEMS: dict[str, System] = {
    "SISO": ring(2, 4),
    "SISO with real poles": mixed(2, 5),
    "SISO real-stored": real_stored(2, 5),
    "SISO nearly real": nearly_real(1, 1),
    "SIMO": mixed(2, 5, 1, 3),
    "MISO": mixed(2, 4, 3, 1),
    "MIMO": ring(2, 5, 2, 3),
    "MIMO with real poles": mixed(2, 5, 3, 2),
    "MIMO real-stored": real_stored(2, 6, 2, 2),
    "MIMO nearly real": nearly_real(2, 2),
    "MIMO of many inputs": mixed(1, 6, 20, 18),
    "redundant": slots(ring(2, 4), [0, 1, 1, 2, 3]),
    "dense": dense(2, 6, 2, 3),
    "dense SISO": dense(2, 5),
}

each_system = pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS.keys())


def cut(balanced: Balanced, s: int, r: int) -> DenseSystem:
    b = balanced
    return DenseSystem(b.A[s : s + 1, :r, :r], b.B[s : s + 1, :r], b.C[s : s + 1, :, :r], b.D[s : s + 1])


@each_system
def test_both_gramians_are_the_diagonal_of_sigma(system):
    balanced = balance(system, system.order)
    for s in range(system.systems):
        sigma = balanced.spectrum.sigma[s]
        r = int((sigma > 1e-6 * sigma[0]).sum())
        whole = cut(balanced, s, int(balanced.usable[s]))
        A, B, C = whole.A[0], whole.B[0], whole.C[0]
        P = linalg.solve_discrete_lyapunov(A, B @ B.T)[:r, :r]
        Q = linalg.solve_discrete_lyapunov(A.T, C.T @ C)[:r, :r]
        scale = np.sqrt(sigma[:r, None] * sigma[None, :r])
        np.testing.assert_allclose(P / scale, np.eye(r), rtol=0, atol=1e-7)
        np.testing.assert_allclose(Q / scale, np.eye(r), rtol=0, atol=1e-7)


@each_system
def test_the_full_realisation_has_the_same_response(system):
    balanced = balance(system, system.order)
    h = impulse_response(system, 64)
    for s in range(system.systems):
        again = impulse_response(cut(balanced, s, int(balanced.usable[s])), 64)[0]
        # states below 1e-14 sigma_1 are left out; every other one costs rounding of sigma_1
        np.testing.assert_allclose(again, h[s], rtol=0, atol=1e-11 * np.abs(h[s]).max())


@each_system
def test_spectrum_agrees_with_hankel_singular_values(system):
    balanced, spectrum = balance(system, 3), hankel_singular_values(system)
    first = spectrum.sigma[:, :1]
    np.testing.assert_allclose(balanced.spectrum.sigma / first, spectrum.sigma / first, rtol=0, atol=1e-14)
    np.testing.assert_array_equal(balanced.spectrum.redundant, spectrum.redundant)


@each_system
@pytest.mark.parametrize("order", [1, 2, 4])
def test_a_cut_realisation_is_the_leading_block_of_the_full_one(system, order):
    """Up to the signs of the states."""
    small, full = balance(system, order), balance(system, system.order)
    for s in range(system.systems):
        one = np.abs(small.C[s]), np.abs(small.B[s]), np.abs(small.A[s])
        two = np.abs(full.C[s, :, :order]), np.abs(full.B[s, :order]), np.abs(full.A[s, :order, :order])
        for x, y in zip(one, two, strict=True):
            np.testing.assert_allclose(x, y, rtol=0, atol=1e-9 * max(np.abs(y).max(), 1.0))


@each_system
def test_every_truncation_keeps_the_bound(system):
    """||G - G_r|| <= 2 sum of the rest, here on the frequency response of the two; and it is stable."""
    balanced = balance(system, system.order)
    h = impulse_response(system, 2048)
    for s in range(system.systems):
        sigma = balanced.spectrum.sigma[s]
        for r in (1, 2, 3, int(balanced.usable[s])):
            small = cut(balanced, s, r)
            assert np.abs(np.linalg.eigvals(small.A[0])).max() < 1
            error = np.fft.rfft(impulse_response(small, 2048)[0] - h[s], axis=-1)
            largest = np.linalg.norm(np.moveaxis(error, -1, 0), ord=2, axis=(1, 2)).max()
            assert largest <= 2 * sigma[r:].sum() * (1 + 1e-9) + 1e-11 * sigma[0]


def test_redundant_states_are_not_usable():
    balanced = balance(slots(ring(2, 4), [0, 1, 1, 2]), 8)
    assert balanced.usable.tolist() == [6, 6]
    assert (balanced.A[:, 6:] == 0).all()
    assert (balanced.B[:, 6:] == 0).all()
    assert (balanced.C[:, :, 6:] == 0).all()


def test_states_below_rounding_are_not_usable():
    """S4D-Real with 16 states: about 1e-23 sigma_1 at the end."""
    system = s4d_real(16)
    balanced = balance(system, 16)
    sigma = hankel_singular_values(system).sigma[0]
    assert 0 < balanced.usable[0] < 16
    # what is and what is not differs by the rounding of the threshold itself
    assert sigma[balanced.usable[0]] < 2e-14 * sigma[0]
    assert sigma[balanced.usable[0] - 1] > 0.5e-14 * sigma[0]


def test_a_system_of_a_batch_is_balanced_as_if_alone():
    system = mixed(70, 5, 2, 2)
    together = balance(system, 6)
    for s in (0, 69):
        alone = balance(pick(system, s), 6)
        h = impulse_response(cut(together, s, 6), 64)
        np.testing.assert_allclose(impulse_response(cut(alone, 0, 6), 64), h, rtol=0, atol=1e-10 * np.abs(h).max())


def test_systems_of_different_orders_side_by_side():
    """The smaller ones are padded with zeros, not with noise."""
    plain, silent = ring(1, 4), ring(1, 4, seed=1)
    silent.C[0, 0, 1:] = 0
    nothing = DiagonalSystem(plain.a, 0 * plain.B, plain.C, plain.D)
    balanced = balance(batch(plain, silent, nothing), 8)
    assert balanced.usable.tolist() == [8, 2, 0]
    assert (balanced.A[1, 2:] == 0).all()
    assert (balanced.A[2] == 0).all()
    assert (balanced.spectrum.sigma[2] == 0).all()
    h = impulse_response(silent, 50)[0]
    np.testing.assert_allclose(impulse_response(cut(balanced, 1, 2), 50)[0], h, rtol=0, atol=1e-12 * np.abs(h).max())


@pytest.mark.parametrize("order", [1, 5])
def test_more_states_than_there_are_is_no_error(order):
    system = diagonal([-0.5], [2.0], [3.0], real=True)
    balanced = balance(system, order)
    assert balanced.usable.tolist() == [1]
    assert balanced.spectrum.sigma.shape == (1, 1)
