"""Hankel singular values against many-digit references, relative to each value.

Claim: every value with sigma / sigma_1 >= 1e-20 is right to 1e-10 relative for one input and one output, and to 1e-8
for several. Digits of the references: enough for the Gramians' condition, (sigma_n / sigma_1)^-2, and 15 more.
"""

from __future__ import annotations

import numpy as np
import pytest

from ssmtool.lti.hankel import balance, hankel_singular_values
from ssmtool.lti.systems import DiagonalSystem
from tests.lti import reference
from tests.lti.samples import diagonal, mixed, ring, s4d_inv, s4d_lin, s4d_real

SISO, MIMO = 1e-10, 1e-8
FLOOR = 1e-20


def weights(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


def chain(inputs: int, outputs: int, pairs: int, seed: int = 0) -> DiagonalSystem:
    """Poles along a ray, close to each other: values that fall fast."""
    rng = np.random.default_rng(seed)
    a = -0.05 * np.arange(1, pairs + 1) * (1 + 0.3j)
    return diagonal(a, weights(rng, pairs, inputs), weights(rng, outputs, pairs))


def nearly_real_pairs(inputs: int, outputs: int, pairs: int = 6) -> DiagonalSystem:
    """Complex pairs a millionth away from the real axis, among poles that are neither."""
    rng = np.random.default_rng(1)
    a = -0.1 * np.arange(1, pairs + 1) + 1j * np.where(np.arange(pairs) % 3 == 2, 0.7, 1e-6)
    return diagonal(a, weights(rng, pairs, inputs), weights(rng, outputs, pairs))


def cluster(inputs: int, outputs: int, spread: float = 1e-5) -> DiagonalSystem:
    """Three pairs within `spread` of each other, and two others."""
    rng = np.random.default_rng(2)
    a = -0.2 + 1j + spread * weights(rng, 5)
    a[3:] = (-0.5 + 2j, -0.05 + 0.3j)
    return diagonal(a, weights(rng, 5, inputs), weights(rng, outputs, 5))


def slow(inputs: int, outputs: int, distance: float, alternating: bool = False) -> DiagonalSystem:
    """Two pairs and a real pole about `distance` from 1 (from -1), and an ordinary pair."""
    rng = np.random.default_rng(4)
    damping, angle = distance * np.array([1, 3, 20]), distance * np.array([2, 5, 0])
    a = np.append(-damping + 1j * (np.pi - angle if alternating else angle), -1 + 0.3j)
    B, C = weights(rng, 4, inputs), weights(rng, outputs, 4)
    B[2], C[:, 2] = np.real(B[2]), np.real(C[:, 2])
    return diagonal(a, B, C)


def worst(ours: np.ndarray, truth: np.ndarray) -> float:
    """Largest relative error over values above the floor."""
    shown = truth >= FLOOR * truth[0]
    return float(np.abs(ours[: len(truth)][shown] / truth[shown] - 1).max())


SINGLE = {
    "S4D-Real 16": (s4d_real(16), 90),
    "S4D-Lin 8": (s4d_lin(8, 0.01), 40),
    "S4D-Inv 8": (s4d_inv(8, 0.01), 40),
    "ring 8": (ring(1, 8), 40),
    "real poles among pairs": (mixed(1, 7), 50),
    "chain 7": (chain(1, 1, 7), 90),
    "nearly real pairs": (nearly_real_pairs(1, 1), 100),
    "cluster": (cluster(1, 1), 80),
    "slow near 1": (slow(1, 1, 1e-7), 60),
    "slow and alternating": (slow(1, 1, 1e-4, True), 60),
    "slow": (diagonal([-1e-9 + 1j, -1e-6 + 0.5j, -1e-3 + 2j], [1, 1, 1], [1, 2j, 3]), 60),
}

SEVERAL = {
    "4x4 ring of order 12": (ring(1, 6, 4, 4), 40),
    "4x4 with real poles": (mixed(1, 6, 4, 4), 40),
    "2x2 chain of order 12": (chain(2, 2, 6), 60),
    "1x3 chain of order 10": (chain(1, 3, 5), 60),
    "2x2 nearly real": (nearly_real_pairs(2, 2, 5), 80),
    "2x1 nearly real": (nearly_real_pairs(2, 1, 4), 80),
    "2x2 cluster": (cluster(2, 2), 70),
    "2x2 slow": (slow(2, 2, 1e-7), 60),
    "2x2 slow and alternating": (slow(2, 2, 1e-4, True), 60),
}


@pytest.mark.parametrize(("system", "digits"), SINGLE.values(), ids=SINGLE.keys())
def test_one_input_one_output(system, digits):
    truth = reference.siso_hankel_singular_values(system, digits)
    sigma = hankel_singular_values(system).sigma[0]
    assert worst(sigma, truth) < SISO


@pytest.mark.parametrize(("system", "digits"), SEVERAL.values(), ids=SEVERAL.keys())
def test_several_inputs_or_outputs(system, digits):
    truth = reference.hankel_singular_values(system, digits)
    sigma = hankel_singular_values(system).sigma[0]
    assert worst(sigma, truth) < MIMO


def test_the_samples_reach_far_below_what_products_of_gramians_can():
    """Otherwise the two tests above would say little."""
    for system in (s4d_real(16), chain(1, 1, 7), nearly_real_pairs(1, 1), cluster(1, 1)):
        sigma = hankel_singular_values(system).sigma[0]
        assert sigma[sigma > 0][-1] < 1e-9 * sigma[0]


@pytest.mark.parametrize("system", [s4d_real(16), chain(1, 1, 6), mixed(1, 6), chain(2, 2, 6), mixed(1, 6, 3, 2)])
def test_the_spectrum_of_the_balanced_realisation_is_the_same_to_absolute_accuracy(system):
    """`balance` works with singular vectors: its values are right to 1e-14 sigma_1."""
    sigma = hankel_singular_values(system).sigma
    np.testing.assert_allclose(balance(system, 4).spectrum.sigma, sigma, rtol=0, atol=1e-14 * sigma[0, 0])


def test_both_reference_algorithms_agree():
    """The symmetric eigenproblem and the singular values of R^T L, in many digits."""
    system = mixed(1, 4)
    both = reference.siso_hankel_singular_values(system, 50), reference.hankel_singular_values(system, 50)
    np.testing.assert_allclose(*both, rtol=1e-14)
