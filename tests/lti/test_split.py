"""Stable part and rest: their sum is the original, their poles are on the right side, joining loses nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import block_diag

from ssmtool.lti.dense import stable_part
from ssmtool.lti.impulse import impulse_response
from ssmtool.lti.split import join, split
from ssmtool.lti.stability import unstable_states
from ssmtool.lti.systems import DenseSystem, DiagonalSystem
from tests.lti.samples import batch, dense, diagonal, mixed, real_stored, ring

LENGTH = 24


def moved(system: DiagonalSystem, place: np.ndarray, modulus: float) -> DiagonalSystem:
    """The same system with the poles marked in `place` put on the circle of that radius."""
    return replace(system, a=np.where(place, np.log(modulus) + 1j * system.a.imag, system.a))


def same_sum(system, stable, rest, tolerance: float) -> None:
    h = impulse_response(system, LENGTH)
    got = impulse_response(stable, LENGTH) + (0 if rest is None else impulse_response(rest, LENGTH))
    np.testing.assert_allclose(got, h, rtol=0, atol=tolerance * np.abs(h).max())


@given(
    st.sampled_from(["ring", "mixed", "real"]),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(0, 2**15 - 1),
    st.sampled_from([1.0, 1.2]),
)
def test_slots_go_to_one_side(kind, systems, inputs, bits, modulus):
    system = {"ring": ring, "mixed": mixed, "real": real_stored}[kind](systems, 5, inputs, 2)
    place = ((bits >> np.arange(15)) & 1).astype(bool).reshape(3, 5)[:systems]
    system = moved(system, place, modulus)
    stable, rest = split(system)
    assert stable.a.shape == system.a.shape
    assert (stable.a.real < 0).all()
    np.testing.assert_array_equal(stable.D, system.D)
    assert (rest is None) == (not place.any())
    if rest is not None:
        assert rest.slots == place.sum(axis=1).max()
        assert rest.real == system.real
        for s, mine in enumerate(place):
            np.testing.assert_array_equal(rest.a[s, : mine.sum()], system.a[s, mine])
            assert not rest.B[s, mine.sum() :].any()
            assert not rest.C[s, :, mine.sum() :].any()
    # every term is in exactly one of the two sums; only the order of summation differs
    same_sum(system, stable, rest, 1e-14)
    whole = join(stable, rest)
    np.testing.assert_allclose(
        impulse_response(whole, LENGTH), impulse_response(system, LENGTH), rtol=0, atol=1e-13 * 1.2**LENGTH * 50
    )
    used = whole.B.any(axis=2) | whole.C.any(axis=1)
    assert (np.sort(~used, axis=1) == ~used).all(), "used slots come first"
    assert whole.slots <= system.slots


def test_stable_systems_come_back_as_they_are():
    for system in (ring(2, 3), dense(2, 4)):
        assert split(system) == (system, None)
    reduced = ring(2, 2)
    assert join(reduced, None) is reduced


@given(st.integers(0, 5), st.integers(0, 5), st.integers(1, 2), st.integers(0, 1000))
def test_dense_systems_split_by_their_spectrum(inside, outside, inputs, seed):
    n = inside + outside
    if n == 0:
        return
    rng = np.random.default_rng(seed)
    parts = [dense(1, k, seed=seed, radius=0.8).A[0] for k in [inside] if k]
    if outside:
        far = rng.standard_normal((outside, outside))
        parts.append(far * 1.05 / np.abs(np.linalg.eigvals(far)).min())
    Z = np.linalg.qr(rng.standard_normal((n, n))).Q
    A = Z @ block_diag(*parts) @ Z.T
    system = DenseSystem(
        A[None],
        rng.standard_normal((1, n, inputs)),
        rng.standard_normal((1, 2, n)),
        rng.standard_normal((1, 2, inputs)),
    )
    stable, rest = split(system)
    assert stable.order == n
    assert not unstable_states(stable).any()
    if not outside:
        assert rest is None
        return
    assert rest is not None
    lam = np.exp(rest.a[0])
    used = rest.B[0].any(axis=1)
    pair = np.abs(np.sin(rest.a[0].imag)) > 1e-12  # a negative real pole has the angle pi, and sin(pi) is 1e-16
    both = np.concatenate([lam[used], lam[used & pair].conj()])
    wanted = np.linalg.eigvals(parts[-1])
    assert len(both) == outside
    # eigenvalues of a random matrix: a perturbation of 1e-16 is magnified by its condition, at most about 1e6
    assert max(np.abs(both - x).min() for x in wanted) <= 1e-8 * np.abs(wanted).max()
    same_sum(system, stable, rest, 1e-8)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_dense_poles_exactly_on_the_circle(count):
    """1, -1 and +-i, without rounding."""
    circle = [np.eye(1), -np.eye(1), np.array([[0.0, -1.0], [1.0, 0.0]])][: max(1, count - 1)]
    system = dense(1, 3)
    A = np.asarray(block_diag(*circle, system.A[0]))
    rng = np.random.default_rng(0)
    system = DenseSystem(A[None], rng.standard_normal((1, len(A), 1)), rng.standard_normal((1, 1, len(A))), system.D)
    stable, rest = split(system)
    assert rest is not None
    assert (rest.a.real == 0).all()
    assert not unstable_states(stable).any()
    same_sum(system, stable, rest, 1e-13)
    assert stable_part(system.A[0], system.B[0], system.C[0])[3] == len(A) - 3


def test_a_defective_pole_outside_is_close_and_the_others_are_exact():
    """A double integrator has no eigenvectors: its poles are moved apart by what costs the response least."""
    A = np.array([[1.0, 1.0, 0.3], [0.0, 1.0, -0.2], [0.0, 0.0, 0.5]])
    system = DenseSystem(A[None], np.ones((1, 3, 1)), np.array([[[1.0, -1.0, 2.0]]]), np.zeros((1, 1, 1)))
    stable, rest = split(system)
    # a perturbation delta of the pole costs eps / delta in the residues and delta^2 in the response: about eps^(1/2)
    same_sum(system, stable, rest, 1e-6)


def test_all_unstable_and_none_unstable_in_one_batch():
    rng = np.random.default_rng(1)
    A = np.stack([1.5 * np.eye(3) + 0.1 * rng.standard_normal((3, 3)), 0.5 * np.eye(3)])
    system = DenseSystem(A, rng.standard_normal((2, 3, 1)), rng.standard_normal((2, 1, 3)), np.zeros((2, 1, 1)))
    stable, rest = split(system)
    assert rest is not None
    assert not stable.B[0].any()
    assert not stable.C[0].any()
    assert not rest.B[1].any()
    assert not rest.C[1].any()
    np.testing.assert_allclose(stable.A[1], system.A[1])
    same_sum(system, stable, rest, 1e-12)


def test_joining_keeps_shared_poles_side_by_side():
    """A silent system of a layout with shared poles keeps its slots: C = 0 alone is not padding."""
    one = diagonal([-0.5 + 0.3j, -0.2 + 1j], [1, 2], [3, 4])
    shared = batch(one, replace(one, C=0 * one.C))
    rest = batch(*[diagonal([0.1], [1], [1])] * 2)
    whole = join(shared, rest)
    assert (whole.a == whole.a[:1]).all()
