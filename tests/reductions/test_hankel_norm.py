"""Optimal Hankel-norm approximation: the error is what Adamjan, Arov and Krein say it is.

Its Hankel norm is measured by `hankel_singular_values` of the difference, a computation that shares nothing with the
dilation. The dilation works with A right to 1e-15 and values down to sigma_{r+1}: 1e-11 sigma_1 of it may be rounding.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg

from ssmtool.lti.allpass import hankel_optimal, nearest_constant
from ssmtool.lti.hankel import balance, hankel_singular_values
from ssmtool.lti.norms import difference, hinf_norm, to_dense
from ssmtool.lti.systems import DenseSystem, DiagonalSystem, System, without_feedthrough
from ssmtool.lti.textbook import textbook
from ssmtool.reductions._contract import Options, Target
from ssmtool.reductions.balanced import reduce as truncate
from ssmtool.reductions.hankel_norm import reduce
from tests.lti.samples import dense, diagonal, mixed, real_stored, ring, s4d_inv, s4d_lin, s4d_real, slots

SYSTEMS: dict[str, System] = {
    "SISO": ring(3, 5),
    "SISO with real poles": mixed(3, 5),
    "real-stored": real_stored(3, 6),
    "SIMO": ring(2, 5, 1, 3),
    "MISO": mixed(2, 4, 3, 1),
    "MIMO": mixed(2, 5, 2, 3),
    "MIMO of many inputs": ring(1, 6, 20, 18),
    "redundant": slots(ring(2, 4), [0, 1, 1, 2, 3]),
    "S4D-Lin": s4d_lin(16, 0.05),
    "S4D-Inv": s4d_inv(16, 0.01),
    "S4D-Real, numerically of order 12": s4d_real(24),
    "dense": dense(2, 7, 2, 2),
}

each_case = pytest.mark.parametrize(
    ("system", "feedthrough"),
    [pytest.param(system, free, id=f"{kind}, D {'free' if free else 'kept'}") for kind, system in SYSTEMS.items()
     for free in (True, False)],
)  # fmt: skip


def form(system: System, feedthrough: bool) -> System:
    """The system whose Hankel matrix counts: without h_0 where that is for D to choose."""
    return textbook(system) if feedthrough else system


def two_channels(gap: float) -> DiagonalSystem:
    """The same system twice, side by side in turned coordinates, once louder by `gap`: values in almost equal pairs."""
    one = ring(1, 5)
    n = one.slots
    B, C = np.zeros((1, 2 * n, 2), complex), np.zeros((1, 2, 2 * n), complex)
    B[:, :n, 0], B[:, n:, 1] = one.B[:, :, 0], one.B[:, :, 0]
    C[:, 0, :n], C[:, 1, n:] = one.C[:, 0], one.C[:, 0] * (1 + gap)
    turn = linalg.qr(np.random.default_rng(1).standard_normal((2, 2)))[0]
    return DiagonalSystem(np.concatenate([one.a, one.a], 1), B @ turn, C, np.zeros((1, 2, 2)))


@each_case
@pytest.mark.parametrize("rank", [1, 2, 3, 5, 8])
def test_the_hankel_norm_of_the_error_is_the_next_singular_value(system, feedthrough, rank):
    result = reduce(system, Target("rank", rank), options=Options(feedthrough=feedthrough))
    sigma = hankel_singular_values(form(system, feedthrough)).sigma
    left = hankel_singular_values(form(difference(system, result.system), feedthrough)).sigma[:, 0]
    expected = np.array([row[r] if r < len(row) else 0.0 for row, r in zip(sigma, result.orders, strict=True)])
    np.testing.assert_allclose(left, expected, rtol=1e-9, atol=1e-11 * sigma[:, 0].max())
    assert (result.system.a.real < 0).all()


@each_case
@pytest.mark.parametrize("rank", [1, 2, 4, 7])
def test_the_bound_holds(system, feedthrough, rank):
    result = reduce(system, Target("rank", rank), options=Options(feedthrough=feedthrough))
    sigma = hankel_singular_values(form(system, feedthrough)).sigma
    tail = np.array([row[r:].sum() for row, r in zip(sigma, result.orders, strict=True)])
    if not result.remarks:
        np.testing.assert_allclose(result.bound, tail * (1 if feedthrough else 2), rtol=1e-9, atol=1e-12 * sigma.max())
    measured = hinf_norm(difference(system, result.system))
    assert (measured <= result.bound * (1 + 1e-6) + 1e-11 * sigma[:, 0]).all()
    if not feedthrough:
        np.testing.assert_array_equal(result.system.D, system.D)


@pytest.mark.parametrize("system", [ring(1, 4), mixed(1, 4), real_stored(1, 5)], ids=["pairs", "mixed", "real"])
def test_one_state_less_leaves_an_all_pass_error(system):
    """One input and output, D free: |G - G_r| is the last singular value at every frequency."""
    order = hankel_singular_values(system).sigma.shape[1] - int(hankel_singular_values(system).redundant[0])
    result = reduce(system, Target("rank", order - 1))
    error = difference(system, result.system)
    assert isinstance(error, DiagonalSystem)
    z = np.exp(-1j * np.linspace(0, np.pi, 50))[:, None]
    lam = np.exp(error.a[0])
    weight = error.C[0, 0] * error.B[0, :, 0]
    G = ((weight / (1 - lam * z)).sum(1) + (weight.conj() / (1 - lam.conj() * z)).sum(1)) / 2 + error.D[0, 0, 0]
    last = hankel_singular_values(textbook(system)).sigma[0, order - 1]
    np.testing.assert_allclose(np.abs(G), last, rtol=1e-8)


@pytest.mark.parametrize("feedthrough", [True, False])
@pytest.mark.parametrize("gap", [0.0, 1e-12, 1e-8, 3e-7, 3e-6, 1e-3])
def test_a_cut_between_equal_values_costs_no_hankel_norm(gap, feedthrough):
    """Values within 1e-6 are one: the order goes to where they begin, and the error stays what theory allows."""
    system = two_channels(gap)
    sigma = hankel_singular_values(form(system, feedthrough)).sigma[0]
    for rank in (1, 2, 3, 4):
        result = reduce(system, Target("rank", rank), options=Options(feedthrough=feedthrough))
        together = rank % 2 == 1 and sigma[rank - 1] - sigma[rank] < 1e-6 * sigma[rank]
        assert result.orders.tolist() == [rank - together]
        left = hankel_singular_values(form(difference(system, result.system), feedthrough)).sigma[0, 0]
        # equating values costs their gap, at most 1e-6; rounding of 1 / Gamma at the least gap kept is 1e-15 / 3e-6
        np.testing.assert_allclose(left, sigma[rank], rtol=2e-6 if together else 1e-8)
        assert hinf_norm(difference(system, result.system))[0] <= result.bound[0] * (1 + 1e-6)


def test_an_energy_target_keeps_equal_values_together():
    system = two_channels(0.0)
    result = reduce(system, Target("energy", 0.3), options=Options(feedthrough=False))
    sigma = result.spectrum.sigma[0]
    r = int(result.orders[0])
    assert r % 2 == 0
    assert sigma[:r].sum() >= 0.3 * sigma.sum()
    assert sigma[: r - 2].sum() < 0.3 * sigma.sum()


def test_a_system_of_equal_values_has_no_better_approximation_than_none():
    """An all-pass: its Hankel singular values are all 1, and order 0 is as good as order 1."""
    lam = 0.8 * np.exp(0.7j)
    top, bottom = np.poly1d([abs(lam) ** 2, -2 * lam.real, 1]), np.poly1d([1, -2 * lam.real, abs(lam) ** 2])
    rest = top - bottom * (top.coeffs[0] / bottom.coeffs[0])  # the all-pass less its value at infinity, over `bottom`
    residue = rest(lam) / bottom.deriv()(lam)
    system = diagonal([np.log(lam)], [1], [2 * residue / lam])
    result = reduce(system, Target("rank", 1))
    assert result.orders.tolist() == [0]
    np.testing.assert_allclose(hinf_norm(difference(system, result.system)), 1, rtol=1e-6)


def test_half_the_bound_of_truncation_asks_for_fewer_states():
    system = s4d_inv(16, 0.01)
    optimal, truncated = (f(system, Target("error", 0.3)) for f in (reduce, truncate))
    assert (optimal.orders < truncated.orders).all()
    assert (hinf_norm(difference(system, optimal.system)) <= 0.3 * optimal.spectrum.sigma[:, 0]).all()


def test_what_cannot_be_resolved_is_truncated_and_said():
    system = s4d_real(24)  # sigma_11 is 1e-12 sigma_1
    result = reduce(system, Target("rank", 10))
    assert result.remarks == ("1 of 1 systems were truncated instead: what they lose is too small to optimise",)
    measured = hinf_norm(difference(system, result.system))
    assert measured[0] <= result.bound[0] + 1e-12 * result.spectrum.sigma[0, 0]


def test_a_pole_next_to_the_unit_circle():
    system = diagonal([-1e-13 + 0.5j, np.log(0.9) + 1j, np.log(0.5) + 2j], [1, 1, 1], [1, 1, 1])
    for rank in (1, 2, 3, 4, 5):
        result = reduce(system, Target("rank", rank))
        assert (result.system.a.real < 0).all()
        assert np.isfinite(result.bound).all()


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (1, 3), (2, 2), (3, 1), (4, 6)])
def test_the_nearest_constant_is_within_the_sum_of_singular_values(inputs, outputs):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        A = rng.standard_normal((6, 6))
        A -= (np.linalg.eigvals(A).real.max() + 0.1) * np.eye(6)
        B, C = rng.standard_normal((6, inputs)), rng.standard_normal((outputs, 6))
        P, Q = (linalg.solve_continuous_lyapunov(F, -K @ K.T) for F, K in ((A, B), (A.T, C.T)))
        total = np.sqrt(np.maximum(np.linalg.eigvals(P @ Q).real, 0)).sum()
        D = nearest_constant(A, B, C)
        poles = np.linalg.eigvals(A)
        omega = np.concatenate([[0], np.abs(poles.imag), np.logspace(-3, 3, 400)])
        gain = max(np.linalg.norm(C @ np.linalg.solve(1j * w * np.eye(6) - A, B) - D, 2) for w in omega)
        assert gain <= total * (1 + 1e-6)


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (2, 3)])
def test_order_0_is_a_constant(inputs, outputs):
    system = without_feedthrough(ring(1, 4, inputs, outputs))
    balanced = balance(textbook(system), system.order)
    found = hankel_optimal(balanced.A[0], balanced.B[0], balanced.C[0], balanced.spectrum.sigma[0], 0)
    assert found is not None
    A, B, C, D = found
    assert A.shape == (0, 0)
    assert (B.shape, C.shape) == ((0, inputs), (outputs, 0))
    full = to_dense(textbook(system))
    # textbook form of the error, brought back by a delay that changes no gain
    error = DenseSystem(
        full.A, full.B, full.C @ np.linalg.inv(full.A), -D[None] - full.C @ np.linalg.solve(full.A, full.B)
    )
    assert hinf_norm(error)[0] <= balanced.spectrum.sigma[0].sum() * (1 + 1e-6)
