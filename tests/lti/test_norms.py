"""H2 and H-infinity norms against impulse responses, Lyapunov solutions, closed forms and dense frequency grids."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg

from ssmtool.lti.hankel import hankel_singular_values
from ssmtool.lti.impulse import impulse_response
from ssmtool.lti.norms import difference, h2_norm, hinf_norm, to_dense
from ssmtool.lti.systems import DenseSystem, DiagonalSystem, System
from tests.lti.samples import dense, diagonal, mixed, real_stored, realisation, ring, s4d_lin, slots

SYSTEMS: dict[str, System] = {
    "SISO": ring(3, 5),
    "SISO with real poles": mixed(3, 5),
    "SIMO": ring(3, 5, 1, 3),
    "MIMO": mixed(2, 5, 3, 2),
    "real-stored": real_stored(3, 4, 2, 2),
    "slow": ring(2, 6, low=0.98),
    "redundant": slots(ring(2, 4), [0, 1, 1, 2]),
    "dense": dense(3, 6, 2, 3),
    "dense with slow poles": dense(2, 5, 2, 2, radius=0.99),
}

each_system = pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS.keys())


def response(system: System, points: int = 1 << 14) -> np.ndarray:
    """(S, F, p, m) frequency response on a grid: 4096 steps of the impulse response (0.99^4096 = 1e-18)."""
    return np.moveaxis(np.fft.rfft(impulse_response(system, 4096), points), -1, 1)


def gain_at(system: DiagonalSystem, omega: float, s: int = 0) -> float:
    """Norm of the frequency response at one frequency, from the poles."""
    z = np.exp(-1j * omega)
    lam, B, C = np.exp(system.a[s]), system.B[s], system.C[s]
    G = ((C / (1 - z * lam)) @ B + (C.conj() / (1 - z * lam.conj())) @ B.conj()) / 2 + system.D[s]
    return float(np.linalg.norm(G, 2))


@each_system
def test_h2_is_the_energy_of_the_impulse_response(system):
    energy = np.square(impulse_response(system, 4096)).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(h2_norm(system), np.sqrt(energy), rtol=1e-12)


@each_system
def test_h2_is_the_trace_with_the_gramian(system):
    """tr(C P C^T) + 2 tr(D^T C B) + |D|^2, P by scipy (right to 1e-12 for moduli up to 0.99)."""
    norms = h2_norm(system)
    for s in range(system.systems):
        A, B, C = realisation(system, s)
        P, D = linalg.solve_discrete_lyapunov(A, B @ B.T), system.D[s]
        energy = np.trace(C @ P @ C.T) + np.sum(D * (2 * C @ B + D))
        assert norms[s] == pytest.approx(np.sqrt(energy), rel=1e-10)


@each_system
def test_hinf_is_the_peak_of_a_dense_frequency_grid(system):
    """The grid misses a peak of half width 0.01 by at most (2e-4 / 0.01)^2 / 2; the search by 1e-6."""
    peak = np.linalg.norm(response(system), ord=2, axis=(2, 3)).max(axis=1)
    np.testing.assert_allclose(hinf_norm(system), peak, rtol=2e-4)
    assert (hinf_norm(system) >= peak * (1 - 1e-6)).all()


@pytest.mark.parametrize("a", [-1e-9, -0.01, -1.0, -0.3 + 1j * np.pi])
@pytest.mark.parametrize("real", [True, False])
def test_closed_forms_of_a_first_order_system(a, real):
    """h_k = c b lambda^k: H2 = |c b| / sqrt(1 - lambda^2), H-infinity = |c b| / (1 - |lambda|)."""
    system = diagonal([a], [2.0], [-3.0], real=real)
    x = np.real(a)
    np.testing.assert_allclose(h2_norm(system), [6 / np.sqrt(-np.expm1(2 * x))], rtol=1e-13)
    np.testing.assert_allclose(hinf_norm(system), [6 / -np.expm1(x)], rtol=1e-13)


def test_feedthrough_takes_part():
    """A first-order low-pass: at omega = 0 the gains add up, for negative D the peak moves to omega = pi."""
    low_pass = diagonal([np.log(0.5)], [1.0], [1.0], [[3.0]], real=True)
    np.testing.assert_allclose(hinf_norm(low_pass), [3 + 2], rtol=1e-13)
    inverted = diagonal([np.log(0.5)], [1.0], [1.0], [[-3.0]], real=True)
    np.testing.assert_allclose(hinf_norm(inverted), [3 - 1 / 1.5], rtol=1e-13)
    nothing_else = diagonal([-1 + 1j], [0], [0], [[-3.0]])
    np.testing.assert_allclose(hinf_norm(nothing_else), [3.0], rtol=1e-13)
    np.testing.assert_allclose(h2_norm(nothing_else), [3.0], rtol=1e-13)


@pytest.mark.parametrize("damping", [1e-3, 1e-6, 1e-9])
def test_a_resonance_near_the_unit_circle(damping):
    """A search around the sharper of two resonances, with a thousand points per half width, finds the same."""
    system = diagonal([-damping + 1.234j, -3e-3 + 1.3j], [1, 1], [1, 0.3j])
    omega = 1.234 + damping * np.linspace(-3, 3, 6001)
    peak = max(gain_at(system, w) for w in omega)
    # at 1e-9 the position of the peak in float64 frequencies is itself uncertain to 1e-7 half widths
    np.testing.assert_allclose(hinf_norm(system), [peak], rtol=2e-6)


def test_the_peak_between_two_equal_resonances():
    system = diagonal([-0.1 + 0.9j, -0.1 + 1.0j], [1, 1], [1, 1])
    peak = max(gain_at(system, w) for w in np.linspace(0.8, 1.1, 3001))
    np.testing.assert_allclose(hinf_norm(system), [peak], rtol=1e-6)


def test_aliased_frequencies_are_folded():
    system = s4d_lin(12, 0.5)
    folded = DiagonalSystem(np.log(np.exp(system.a)), system.B, system.C, system.D)
    np.testing.assert_allclose(hinf_norm(system), hinf_norm(folded), rtol=1e-9)


@pytest.mark.parametrize(("inputs", "outputs"), [(49, 52)])
def test_large_matrices_by_power_iteration(inputs, outputs):
    """More than 48 inputs and outputs: within 1e-3 of the largest gain on a grid around every pole."""
    system = ring(1, 4, inputs, outputs, low=0.9)
    omega = np.concatenate([w + np.linspace(-0.03, 0.03, 31) for w in system.a[0].imag])
    peak = max(gain_at(system, w) for w in omega)
    np.testing.assert_allclose(hinf_norm(system), [peak], rtol=1e-3)


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (2, 3)])
def test_dense_and_diagonal_forms_agree(inputs, outputs):
    system = mixed(2, 4, inputs, outputs)
    np.testing.assert_allclose(hinf_norm(to_dense(system)), hinf_norm(system), rtol=2e-6)
    np.testing.assert_allclose(h2_norm(to_dense(system)), h2_norm(system), rtol=1e-11)


@each_system
def test_a_system_minus_itself_is_nothing(system):
    error = difference(system, system)
    assert (hinf_norm(error) <= 1e-12 * hinf_norm(system)).all()
    assert (h2_norm(error) <= 1e-12 * h2_norm(system)).all()


@each_system
def test_the_difference_has_the_difference_of_the_responses(system):
    other: System
    if isinstance(system, DenseSystem):
        other = DenseSystem(system.A * 0.9, system.B, system.C, 2 * system.D)
    else:
        other = DiagonalSystem(system.a - 0.1, system.B, system.C, 2 * system.D, real=system.real)
    expected = impulse_response(system, 50) - impulse_response(other, 50)
    got = impulse_response(difference(system, other), 50)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-13 * np.abs(expected).max())


def test_a_real_stored_and_a_complex_system_can_be_subtracted():
    """The sum of one of each has slots of both kinds; the errors are those of the responses."""
    one, two = real_stored(2, 4), mixed(2, 3)
    error = difference(one, two)
    h = impulse_response(one, 4096) - impulse_response(two, 4096)
    np.testing.assert_allclose(h2_norm(error), np.sqrt(np.square(h).sum(axis=(1, 2, 3))), rtol=1e-12)
    with_dense = difference(one, to_dense(two))
    np.testing.assert_allclose(h2_norm(with_dense), h2_norm(error), rtol=1e-10)


def test_small_errors_keep_their_digits():
    """The residue of one of five poles changes by 1e-9: the H2 error is that of the change, not of its rounding."""
    system = ring(1, 5)
    other = DiagonalSystem(system.a, system.B, system.C * (1 + 1e-9 * (np.arange(5) == 2)), system.D)
    exact = DiagonalSystem(system.a[:, 2:3], system.B[:, 2:3], other.C[:, :, 2:3] - system.C[:, :, 2:3], 0 * system.D)
    np.testing.assert_allclose(h2_norm(difference(other, system)), h2_norm(exact), rtol=1e-6)
    np.testing.assert_allclose(hinf_norm(difference(other, system)), hinf_norm(exact), rtol=1e-5)


@each_system
def test_norms_keep_their_order(system):
    """Without D: Hankel norm <= H-infinity norm <= 2 sum sigma."""
    if isinstance(system, DenseSystem):
        plain: System = DenseSystem(system.A, system.B, system.C, 0 * system.D)
    else:
        plain = DiagonalSystem(system.a, system.B, system.C, 0 * system.D, real=system.real)
    sigma, norm = hankel_singular_values(plain).sigma, hinf_norm(plain)
    assert (sigma[:, 0] <= norm * (1 + 1e-6)).all()
    assert (norm <= 2 * sigma.sum(axis=1) * (1 + 1e-9)).all()
