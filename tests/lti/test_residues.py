"""Refitted residues against least squares on the explicit impulse response, and what makes a projection one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmtool.lti.impulse import impulse_response
from ssmtool.lti.residues import refit_residues
from ssmtool.lti.systems import DiagonalSystem, System
from tests.lti.samples import batch, dense, diagonal, mixed, real_stored, ring, slots

LONG = 4096  # 0.99^4096 is 1e-18: the whole response


def modes(reduced: DiagonalSystem, length: int) -> np.ndarray:
    """(S, 2n, m, length) responses of Re x and Im x of every slot."""
    powers = np.exp(reduced.a[:, :, None] * np.arange(length))
    h = reduced.B[..., None] * powers[:, :, None]
    return np.concatenate([h.real, h.imag], axis=1)


def energy(original: System, reduced: DiagonalSystem, length: int) -> np.ndarray:
    return np.square(impulse_response(original, length) - impulse_response(reduced, length)).sum(axis=(1, 2, 3))


CASES: dict[str, tuple[System, DiagonalSystem]] = {
    "other poles": (ring(3, 6), ring(3, 2, seed=9)),
    "kept poles": (ring(3, 6), slots(ring(3, 6), [0, 3])),
    "MIMO": (mixed(2, 5, 2, 3), mixed(2, 3, 2, 3, seed=4)),
    "real-stored": (real_stored(3, 6), real_stored(3, 3, seed=5)),
    "dense": (dense(2, 6, 2, 2), mixed(2, 3, 2, 2)),
}


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("horizon", [1, 7, 60, None])
def test_agrees_with_least_squares_on_the_kernel(kind, horizon):
    original, reduced = CASES[kind]
    length = horizon or LONG
    found = refit_residues(original, reduced, horizon)
    h, basis = impulse_response(original, length), modes(reduced, length)
    h[..., 0] -= reduced.D
    for s in range(original.systems):
        matrix = basis[s].reshape(basis.shape[1], -1).T
        rhs = h[s].reshape(h.shape[1], -1).T
        best = np.square(rhs - matrix @ np.linalg.lstsq(matrix, rhs, rcond=1e-13)[0]).sum()
        # the minimum is flat: an error delta in C costs delta^2; both solve with a condition of at most about 1e5
        assert energy(original, found, length)[s] <= best * (1 + 1e-9) + 1e-18 * np.square(rhs).sum()


@pytest.mark.parametrize("kind", CASES)
def test_the_error_is_orthogonal_to_the_kept_modes(kind):
    original, reduced = CASES[kind]
    found = refit_residues(original, reduced)
    e = impulse_response(original, LONG) - impulse_response(found, LONG)
    basis = modes(reduced, LONG)
    dot = np.einsum("spml,snml->spn", e, basis)
    size = np.sqrt(np.square(basis).sum(axis=(2, 3)))[:, None] * np.linalg.norm(impulse_response(original, LONG)[0])
    # the imaginary part of (-0.9)^k from a stored angle pi is rounding, not a mode
    assert (np.abs(dot) <= 1e-10 * np.where(size > 1e-9 * size.max(), size, size.max())).all()


def test_a_subset_of_equal_poles_with_the_right_residues_stays():
    """Original and reduced share poles exactly: the joint Gramian is singular."""
    original = ring(2, 4)
    found = refit_residues(original, replace(original, C=0 * original.C))
    np.testing.assert_allclose(found.C, original.C, rtol=0, atol=1e-10 * np.abs(original.C).max())


@given(
    st.integers(0, 10_000),
    st.integers(1, 2),
    st.integers(1, 3),
    st.one_of(st.none(), st.integers(1, 200)),
    st.booleans(),
)
def test_never_worse(seed, inputs, kept, horizon, same):
    original = mixed(2, 5, inputs, 2, seed=seed)
    reduced = slots(original, range(kept)) if same else mixed(2, kept + 1, inputs, 2, seed=seed + 1)
    found = refit_residues(original, reduced, horizon)
    length = horizon or LONG
    before, after = energy(original, reduced, length), energy(original, found, length)
    scale = np.square(impulse_response(original, length)).sum(axis=(1, 2, 3))
    assert (after <= before * (1 + 1e-12) + 1e-24 * scale).all()


def test_what_is_not_reached_is_not_touched():
    original, reduced = ring(2, 4), ring(2, 3, seed=1)
    reduced.B[:, 2] = 0
    reduced.C[:, :, 2] = 0
    found = refit_residues(original, reduced)
    assert not found.C[:, :, 2].any()
    np.testing.assert_array_equal(found.B, reduced.B)
    np.testing.assert_array_equal(found.a, reduced.a)


def test_real_slots_stay_real():
    found = refit_residues(mixed(2, 6), slots(mixed(2, 6, seed=3), [0, 1, 2]))
    assert not found.C[:, :, :2].imag.any()
    assert not refit_residues(real_stored(2, 6), real_stored(2, 2, seed=3)).C.imag.any()


def test_another_feedthrough_counts_at_step_zero():
    original = ring(1, 3)
    reduced = replace(slots(original, [0]), D=original.D + 5)
    found = refit_residues(original, reduced, 30)
    h, basis = impulse_response(original, 30)[0, 0, 0], modes(reduced, 30)[0, :, 0]
    h[0] -= reduced.D[0, 0, 0]
    best = np.linalg.lstsq(basis.T, h, rcond=None)[0]
    np.testing.assert_allclose(found.C[0, 0], best[:1] - 1j * best[1:], rtol=1e-9)


def test_a_pole_next_to_the_circle_and_one_close_to_another():
    """Closed form: the best residue of one real mode is <h, mode> / <mode, mode>, all sums geometric."""
    slow, fast, kept = 1 - 1e-9, 0.5, 1 - 2e-9
    original = diagonal(np.log1p([-1e-9, -0.5]), [1, 1], [1, 3], real=True)
    reduced = diagonal(np.log1p([-2e-9]), [1], [0], real=True)
    wanted = ((1 / (3e-9 - 2e-18)) + 3 / (1 - fast * kept)) * (4e-9 - 4e-18)
    got = refit_residues(original, reduced).C[0, 0, 0].real
    assert got == pytest.approx(wanted, rel=1e-9)
    assert slow > kept


def test_a_horizon_allows_unstable_systems():
    original = batch(diagonal([0.01 + 0.3j, -0.1], [1, 1], [1, 1]))
    reduced = diagonal([0.01 + 0.3j], [1], [0])
    found = refit_residues(original, reduced, 20)
    assert energy(original, found, 20)[0] < energy(original, reduced, 20)[0]
