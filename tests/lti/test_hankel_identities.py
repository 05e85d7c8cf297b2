"""What Hankel singular values satisfy whatever the system: closed forms, invariances, sums."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import linalg

from ssmtool.lti.factors import Slots
from ssmtool.lti.hankel import hankel_singular_values
from ssmtool.lti.impulse import impulse_response
from ssmtool.lti.minimal import minimal
from ssmtool.lti.systems import DiagonalSystem
from tests.lti.samples import batch, diagonal, mixed, pick, real_stored, realisation, ring, slots

SHAPES = [(1, 1), (1, 3), (3, 1), (2, 2), (4, 3)]
shapes = pytest.mark.parametrize(("inputs", "outputs"), SHAPES)


def sigma(system: DiagonalSystem) -> np.ndarray:
    return hankel_singular_values(system).sigma


@pytest.mark.parametrize("a", [-1e-9, -0.01, -1.0, -20.0, -0.3 + 1j * np.pi])
@pytest.mark.parametrize("residue", [2.0, -3.0])
def test_first_order_system(a, residue):
    """One real state: sigma = |c b| / (1 - lambda^2)."""
    value = sigma(diagonal([a], [residue], [1.0], real=True))
    np.testing.assert_allclose(value, [[abs(residue) / -np.expm1(2 * np.real(a))]], rtol=1e-14)


@shapes
def test_first_order_system_with_several_inputs_and_outputs(inputs, outputs):
    """One real state: sigma = |c| |b| / (1 - lambda^2)."""
    b, c = np.arange(1.0, inputs + 1), np.arange(2.0, outputs + 2)
    value = sigma(diagonal([-0.1], b[None], c[:, None], real=True))
    expected = np.linalg.norm(b) * np.linalg.norm(c) / -np.expm1(-0.2)
    np.testing.assert_allclose(value, [[expected]], rtol=1e-14)


@pytest.mark.parametrize("a", [-0.1 + 1j, -1e-6 + 0.3j, -0.5 + 3j])
def test_a_blaschke_product_is_all_pass(a):
    """The Hankel matrix of an inner function's response from k = 1 on is a partial isometry: both values are 1."""
    lam = np.exp(a)
    # theta(w) = (w - conj l)(w - l) / ((1 - l w)(1 - conj(l) w)), residue of its partial fractions in 1 / (1 - l w)
    w = 1 / lam
    residue = (w - lam) * (w - lam.conjugate()) / (1 - lam.conjugate() * w)
    # theta's impulse response is residue * lam^k + conj for k >= 1; from k = 1 on: b c = 2 residue * lam
    value = sigma(diagonal([a], [1.0], [2 * residue * lam]))
    # residue is a difference of nearly equal numbers for slow poles: relative error eps / |Re a|
    np.testing.assert_allclose(value, [[1.0, 1.0]], rtol=1e-15 / -a.real + 1e-14)


@shapes
def test_squares_sum_to_the_trace_of_pq(inputs, outputs):
    system = mixed(3, 4, inputs, outputs)
    for s in range(3):
        A, B, C = realisation(system, s)
        P = linalg.solve_discrete_lyapunov(A, B @ B.T)
        Q = linalg.solve_discrete_lyapunov(A.T, C.T @ C)
        # moduli up to 0.99: the solver keeps about 1e-12
        assert np.square(sigma(system)[s]).sum() == pytest.approx(np.trace(P @ Q), rel=1e-11)


@shapes
def test_they_are_the_singular_values_of_the_hankel_matrix(inputs, outputs):
    """[h_{i+j}] cut where the response has died out (0.9^200 = 7e-10)."""
    system = mixed(1, 3, inputs, outputs)
    faster = np.minimum(system.a.real, np.log(0.9)) + 1j * system.a.imag
    system = DiagonalSystem(faster, system.B, system.C, 0 * system.D)
    half = 100
    h = impulse_response(system, 2 * half)[0]
    index = np.arange(half)[:, None] + np.arange(half)
    H = h[:, :, index].transpose(2, 0, 3, 1).reshape(half * outputs, half * inputs)
    values = np.linalg.svd(H, compute_uv=False)[: system.order]
    np.testing.assert_allclose(sigma(system)[0], values, rtol=0, atol=1e-6 * values[0])


@shapes
def test_conjugating_a_slot_changes_nothing(inputs, outputs):
    system = ring(2, 5, inputs, outputs)
    flip = np.arange(5) % 2 == 0
    other = DiagonalSystem(
        np.where(flip, system.a.conj(), system.a),
        np.where(flip[:, None], system.B.conj(), system.B),
        np.where(flip, system.C.conj(), system.C),
        system.D,
    )
    np.testing.assert_array_equal(sigma(other), sigma(system))


@shapes
def test_the_order_of_slots_does_not_matter(inputs, outputs):
    """To rounding: the same pivots, another order of the same sums."""
    system = mixed(2, 6, inputs, outputs)
    np.testing.assert_allclose(sigma(slots(system, [3, 0, 5, 1, 4, 2])), sigma(system), rtol=1e-11)


@shapes
def test_scaling_inputs_scales_every_value(inputs, outputs):
    system = mixed(2, 5, inputs, outputs)
    louder = DiagonalSystem(system.a, 1e5 * system.B, system.C, system.D)
    np.testing.assert_allclose(sigma(louder), 1e5 * sigma(system), rtol=1e-12)
    turned = DiagonalSystem(system.a, system.B, -system.C, system.D)
    np.testing.assert_allclose(sigma(turned), sigma(system), rtol=1e-12)


@shapes
def test_the_dual_system_has_the_same_values(inputs, outputs):
    system = mixed(2, 5, inputs, outputs)
    B, C, D = (part.transpose(0, 2, 1) for part in (system.C, system.B, system.D))
    dual = DiagonalSystem(system.a, B, C, D)
    np.testing.assert_allclose(sigma(dual), sigma(system), rtol=1e-11)


def test_rotating_inputs_and_outputs_changes_nothing():
    system = ring(1, 5, 3, 2)
    rng = np.random.default_rng(0)
    U, V = np.linalg.qr(rng.standard_normal((3, 3)))[0], np.linalg.qr(rng.standard_normal((2, 2)))[0]
    turned = DiagonalSystem(system.a, system.B @ U, V @ system.C, system.D)
    np.testing.assert_allclose(sigma(turned), sigma(system), rtol=1e-11)


def test_unconnected_systems_side_by_side_have_the_union_of_their_values():
    one, two = ring(1, 3, seed=1), ring(1, 3, seed=2)
    B = np.zeros((1, 6, 2), complex)
    C = np.zeros((1, 2, 6), complex)
    B[:, :3, :1], B[:, 3:, 1:], C[:, :1, :3], C[:, 1:, 3:] = one.B, two.B, one.C, two.C
    both = DiagonalSystem(np.concatenate([one.a, two.a], 1), B, C, np.zeros((1, 2, 2)))
    union = np.sort(np.concatenate([sigma(one)[0], sigma(two)[0]]))[::-1]
    np.testing.assert_allclose(sigma(both)[0], union, rtol=1e-10)


def test_feedthrough_does_not_count():
    system = ring(1, 4, 2, 2)
    np.testing.assert_array_equal(sigma(DiagonalSystem(system.a, system.B, system.C, 100 * system.D)), sigma(system))


@pytest.mark.parametrize("make", [ring, mixed, real_stored])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (3, 2)])
def test_a_system_does_not_feel_its_batch(make, inputs, outputs):
    """130 systems are cut into several batches; to rounding, since batched LAPACK may order its sums otherwise."""
    system = make(130, 6, inputs, outputs)
    together = sigma(system)
    for s in (0, 63, 64, 129):
        np.testing.assert_allclose(sigma(pick(system, s))[0], together[s], rtol=0, atol=1e-13 * together[s, 0])


def test_a_nearly_real_system_in_the_batch_does_not_harm_the_others():
    usual = ring(3, 5, 2, 2)
    odd = ring(1, 5, 2, 2, seed=7)
    odd.a[0, 1] = -0.1 + 1e-7j
    together = sigma(batch(usual, odd))
    np.testing.assert_allclose(together[:3], sigma(usual), rtol=1e-11)
    np.testing.assert_allclose(together[3:], sigma(odd), rtol=1e-11)


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (3, 2)])
def test_results_do_not_depend_on_the_number_of_threads(inputs, outputs):
    system = mixed(70, 8, inputs, outputs)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append(sigma(system))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(results[1], results[0])
    np.testing.assert_array_equal(results[2], results[0])


def test_progress_counts_every_system_once():
    seen = []
    hankel_singular_values(ring(130, 4), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (130, 130)
    assert all(total == 130 for _, total in seen)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


@st.composite
def systems(draw) -> DiagonalSystem:
    """Random systems with real, slow, fast, close and nearly real poles."""
    n = draw(st.integers(1, 6))
    inputs, outputs = draw(st.sampled_from([(1, 1), (1, 2), (2, 1), (2, 2), (3, 2)]))
    damping = draw(st.lists(st.floats(-5, 0.5), min_size=n, max_size=n))
    angle = draw(st.lists(st.one_of(st.sampled_from([0.0, np.pi, 1e-6]), st.floats(0.01, 3.1)), min_size=n, max_size=n))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = 10.0 ** rng.uniform(-3, 3, n)
    B = (rng.standard_normal((n, inputs)) + 1j * rng.standard_normal((n, inputs))) * size[:, None]
    C = rng.standard_normal((outputs, n)) + 1j * rng.standard_normal((outputs, n))
    return diagonal(-(10.0 ** np.array(damping)) + 1j * np.array(angle), B, C)


@given(systems())
def test_fast_and_careful_paths_agree(system):
    """Real pairwise factors and one-by-one complex ones, to 1e-11 of the largest value."""
    reduced = minimal(system)
    careful = Slots(reduced, slice(0, 1), torch.device("cpu")).careful()[0]
    values = torch.linalg.svdvals(careful)[0].numpy()
    ours = sigma(system)[0]
    width = min(len(values), len(ours))
    np.testing.assert_allclose(ours[:width], values[:width], rtol=0, atol=1e-11 * max(values[0], 1e-300))


@given(systems())
def test_values_are_finite_descending_and_zero_beyond_the_minimal_order(system):
    spectrum = hankel_singular_values(system)
    values, order = spectrum.sigma[0], system.order - int(spectrum.redundant[0])
    assert np.isfinite(values).all()
    assert (values >= 0).all()
    assert (np.diff(values) <= 0).all()
    assert (values[order:] == 0).all()


@given(systems())
def test_the_largest_value_is_at_least_the_norm_of_any_columns_response(system):
    """sigma_1 is the norm of the Hankel matrix, whose first columns are the impulse responses."""
    h = impulse_response(system, 400)[0]
    energy = np.sqrt(np.square(h).sum(axis=(0, 2)).max())
    assert sigma(system)[0, 0] >= energy * (1 - 1e-12)
