"""Balanced stochastic truncation: the relative error theorem, G(1), what is refused, and what then happens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmtool.errors import ReductionError
from ssmtool.lti.impulse import impulse_response
from ssmtool.lti.norms import hinf_norm, to_dense
from ssmtool.lti.systems import DiagonalSystem, System
from ssmtool.reductions import balanced, relative_error
from ssmtool.reductions._contract import Options, Target
from tests.lti.samples import batch, dense, diagonal, mixed, ring

OMEGA = np.concatenate([[0.0], np.logspace(-3, np.log10(np.pi), 300)])


def response(system: System) -> np.ndarray:
    """(S, F, p, m) complex128, D included."""
    full = to_dense(system)
    z = np.exp(1j * OMEGA)[:, None, None]
    matrix = np.eye(full.order) - full.A[:, None] / z
    return full.C[:, None] @ np.linalg.solve(matrix, full.B[:, None] + 0j * z) + full.D[:, None]


def relative(system: System, reduced: System) -> np.ndarray:
    """(S,) largest sigma_1(G^{-1} (G - G_r)) over the grid."""
    G, G_r = response(system), response(reduced)
    return np.linalg.norm(np.linalg.solve(G, G - G_r), ord=2, axis=(2, 3)).max(axis=1)


@given(st.integers(0, 1000), st.integers(1, 2), st.integers(1, 7), st.booleans())
def test_the_relative_error_stays_below_its_bound(seed, inputs, rank, minimum_phase):
    system = mixed(2, 4, inputs, inputs, seed)
    if minimum_phase:
        system = replace(system, D=system.D + 2 * hinf_norm(system)[:, None, None] * np.eye(inputs))
    result = relative_error.reduce(system, Target("rank", rank))
    bounded = ~np.isnan(result.bound)
    if minimum_phase:
        assert bounded.all()
    # the absolute bound is the relative one times the norm
    limit = result.bound / hinf_norm(system)
    assert (relative(system, result.system) <= limit * (1 + 1e-6) + 1e-9)[bounded].all()


@pytest.mark.parametrize("system", [ring(3, 5), mixed(2, 5, 2, 2), dense(2, 6, 2, 2)], ids=["SISO", "MIMO", "dense"])
@pytest.mark.parametrize("rank", [0, 2, 5])
def test_steady_state_is_kept(system, rank):
    result = relative_error.reduce(system, Target("rank", rank))
    G, G_r = response(system)[:, 0], response(result.system)[:, 0]
    np.testing.assert_allclose(G_r, G, rtol=0, atol=1e-9 * np.abs(G).max())


def test_one_pole_and_one_zero():
    """G = (z - b) / (z - a) at order 0: G(1), and the bound 2 s / (1 - s) with s = |a - b| / |1 - a b|."""
    a, b = 0.8, 0.5
    system = diagonal([np.log(a)], [1], [(a - b) / a], [[1 - (a - b) / a]], real=True)
    result = relative_error.reduce(system, Target("rank", 0))
    assert result.orders.tolist() == [0]
    assert result.system.D[0, 0, 0] == pytest.approx((1 - b) / (1 - a), rel=1e-12)
    s, norm = (a - b) / (1 - a * b), max((1 - b) / (1 - a), (1 + b) / (1 + a))
    assert result.bound[0] == pytest.approx(2 * s / (1 - s) * norm, rel=2e-3)


def test_where_the_gain_is_small_it_does_better_than_balanced_truncation():
    """A low-pass filter whose zeros make the gain fall by five orders of magnitude towards pi."""
    zeros = [-0.27, -0.25 + 0.06j, -0.25 - 0.06j, -0.24, 0.3, -0.3]
    poles = [0.95, 0.9 + 0.1j, 0.9 - 0.1j, 0.5, 0.2 + 0.6j, 0.2 - 0.6j]
    # In powers of 1 / z: G = prod (1 - zero / z) / (1 - pole / z), whose residues are those of current-input form.
    kept = np.array([pole for pole in poles if np.imag(pole) >= 0])
    residue = np.array([_residue(zeros, poles, pole) * (2 if np.imag(pole) else 1) for pole in kept])
    direct = np.prod(zeros) / np.prod(poles)
    system = diagonal(np.log(kept), np.ones(len(kept)), residue, [[direct.real]])
    z = np.exp(1j * OMEGA)[:, None]
    exact = (1 - np.array(zeros) / z).prod(axis=1) / (1 - np.array(poles) / z).prod(axis=1)
    np.testing.assert_allclose(response(system)[0, :, 0, 0], exact, rtol=0, atol=1e-12 * np.abs(exact).max())
    ours = relative_error.reduce(system, Target("rank", 4)).system
    theirs = balanced.reduce(system, Target("rank", 4)).system
    assert relative(system, ours)[0] < relative(system, theirs)[0] / 5


def _residue(zeros: list[complex], poles: list[complex], pole: complex) -> complex:
    others = [x for x in poles if x != pole]
    return complex(np.prod(1 - np.array(zeros) / pole) / np.prod(1 - np.array(others) / pole))


def refusing(system: DiagonalSystem, which: int) -> DiagonalSystem:
    """The same systems with D + C B = 0 in one of them."""
    D = system.D.copy()
    D[which] = -(system.C[which] @ system.B[which]).real
    return replace(system, D=D)


def test_a_refused_system_is_truncated_and_counted():
    system = refusing(ring(3, 4), 1)
    result = relative_error.reduce(system, Target("rank", 3))
    plain = balanced.reduce(system, Target("rank", 3))
    assert any("1 of 3" in remark and "balanced truncation" in remark for remark in result.remarks)
    assert result.bound[1] == pytest.approx(plain.bound[1])
    np.testing.assert_array_equal(result.system.D[1], system.D[1])
    np.testing.assert_allclose(
        impulse_response(result.system, 50)[1], impulse_response(plain.system, 50)[1], rtol=0, atol=1e-10
    )


def test_nothing_left_to_do_is_an_error():
    one = ring(1, 4)
    silent = DiagonalSystem(one.a, 0 * one.B, one.C, one.D)
    for system in (refusing(one, 0), batch(refusing(one, 0), silent)):
        with pytest.raises(ReductionError, match="singular"):
            relative_error.reduce(system, Target("rank", 2))
    zero = -(one.C[0] @ (one.B[0] / -np.expm1(one.a[0])[:, None])).real
    with pytest.raises(ReductionError, match="unit circle"):
        relative_error.reduce(replace(one, D=zero[None]), Target("rank", 2))
    with pytest.raises(ReductionError, match="as many outputs as inputs"):
        relative_error.reduce(ring(1, 4, 2, 3), Target("rank", 2))


def test_a_feedthrough_that_must_stay():
    system = refusing(mixed(3, 5), 2)
    result = relative_error.reduce(system, Target("rank", 4), options=Options(feedthrough=False))
    np.testing.assert_array_equal(result.system.D, system.D)
    assert np.isnan(result.bound[:2]).all()
    assert not np.isnan(result.bound[2])
    assert any("D stays" in remark for remark in result.remarks)
    # refitted: no other C is nearer to the kernel
    h = impulse_response(system, 2048)
    best = np.square(h - impulse_response(result.system, 2048)).sum(axis=(1, 2, 3))
    for scale in (0.99, 1.01):
        other = replace(result.system, C=scale * result.system.C)
        assert (np.square(h - impulse_response(other, 2048)).sum(axis=(1, 2, 3)) > best)[:2].all()


def test_errors_and_energies():
    system = ring(4, 6)
    result = relative_error.reduce(system, Target("error", 0.03))
    G = response(system) - response(result.system)
    assert (np.abs(G).max(axis=(1, 2, 3)) <= 0.03 * result.spectrum.sigma[:, 0]).all()
    few, many = (relative_error.reduce(system, Target("energy", share)).orders for share in (0.5, 0.999))
    assert (few < many).all()
