"""The factors satisfy the Stein equation P = A P A^T + B B^T in real coordinates, whichever algorithm made them.

Truth is scipy's Lyapunov solver, good to about 1e-14 / (1 - |lambda|)^2: with moduli up to 0.95 the bar is 1e-12 of the
largest entry.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import linalg
from torch import Tensor

from ssmtool.lti.blaschke import blaschke_factor, conjugate_closed, real_factor
from ssmtool.lti.block_potapov import block_potapov_factor
from ssmtool.lti.factors import Slots
from ssmtool.lti.kautz import kautz_factor
from ssmtool.lti.minimal import minimal
from ssmtool.lti.potapov import potapov_factor
from tests.lti.samples import mixed, pick, ring

RTOL = 1e-12


def poles(kind: str, systems: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """Logarithms of moduli up to 0.95 above the real axis, some or all of them real."""
    modulus = rng.uniform(0.3, 0.95, (systems, n))
    angle = rng.uniform(0.1, 3.0, (systems, n))
    position = np.arange(n)
    if kind == "positive real":
        angle[:] = 0
    elif kind == "negative real":
        angle[:] = np.pi
    elif kind == "real of both signs":
        angle[:] = np.pi * (position % 2)
    elif kind == "mixture":
        angle[:, position % 3 == 0], angle[:, position % 3 == 1] = 0, np.pi
    elif kind == "one real":
        angle[:, 0] = 0
    elif kind == "fast and slow":
        modulus[:, : n // 2] = rng.uniform(1e-12, 1e-6, (systems, n // 2))
    return np.log(modulus) + 1j * angle


KINDS = ("complex", "positive real", "negative real", "real of both signs", "mixture", "one real", "fast and slow")


def case(kind: str, inputs: int, n: int = 7, systems: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(inputs + n)
    a = poles(kind, systems, n, rng)
    real = (np.imag(a) == 0) | (np.imag(a) == np.pi)
    B = rng.standard_normal((systems, n, inputs)) + 1j * rng.standard_normal((systems, n, inputs))
    B = np.where(real[:, :, None], np.real(B), B)
    return torch.from_numpy(a), torch.from_numpy(B), torch.from_numpy(real)


def kautz(a: Tensor, B: Tensor, real: Tensor) -> Tensor:
    L = kautz_factor(a, B[:, :, 0].contiguous(), real)
    return L if L.shape[1] == 2 * a.shape[1] else torch.cat([L, torch.zeros_like(L)], 1)


def blaschke(a: Tensor, B: Tensor, real: Tensor) -> Tensor:
    closed, rows = conjugate_closed(a, B, real)
    return real_factor(blaschke_factor(closed, rows), real)


def lyapunov(a: Tensor, B: Tensor) -> np.ndarray:
    """Reachability Gramians (S, 2N, 2N) in coordinates (Re x, Im x), by scipy."""
    lam, rows = np.exp(a.numpy()), B.numpy()
    n = lam.shape[1]
    out = np.empty((len(lam), 2 * n, 2 * n))
    for s in range(len(lam)):
        re, im = np.diag(np.real(lam[s])), np.diag(np.imag(lam[s]))
        A = np.block([[re, -im], [im, re]])
        b = np.concatenate([np.real(rows[s]), np.imag(rows[s])])
        out[s] = linalg.solve_discrete_lyapunov(A, b @ b.T)
    return out


def check(factor: Callable[[Tensor, Tensor, Tensor], Tensor], a: Tensor, B: Tensor, real: Tensor) -> None:
    L = factor(a, B, real).numpy()
    expected = lyapunov(a, B)
    largest = np.abs(expected).max(axis=(1, 2))[:, None, None]
    assert np.abs((L @ L.transpose(0, 2, 1) - expected) / largest).max() < RTOL


# a fast pair of one input is too close to its mirror image for `potapov_factor`: `nearly_real` sends it elsewhere
ONE_INPUT = [(f, k) for f in (kautz, potapov_factor, blaschke) for k in KINDS if (f, k) != (potapov_factor, KINDS[-1])]


@pytest.mark.parametrize(("factor", "kind"), ONE_INPUT)
def test_one_input(factor, kind):
    check(factor, *case(kind, 1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inputs", [2, 3, 9])
@pytest.mark.parametrize("factor", [potapov_factor, blaschke])
def test_several_inputs(factor, inputs, kind):
    check(factor, *case(kind, inputs))


@pytest.mark.parametrize("kind", ["complex", "mixture"])
@pytest.mark.parametrize(("inputs", "slots"), [(16, 5), (16, 32), (24, 70), (40, 33)])
def test_blocks_of_poles_with_many_inputs(inputs, slots, kind):
    """Poles go in blocks of 16: less than one, exactly two, several. By residual here."""
    a, B, real = case(kind, inputs, slots, systems=1)
    L = block_potapov_factor(a, B, real)[0].numpy()
    lam, rows = np.exp(a[0].numpy()), B[0].numpy()
    re, im = np.diag(np.real(lam)), np.diag(np.imag(lam))
    A, b = np.block([[re, -im], [im, re]]), np.concatenate([np.real(rows), np.imag(rows)])
    P = L @ L.T
    np.testing.assert_allclose(A @ P @ A.T + b @ b.T, P, rtol=0, atol=RTOL * np.abs(P).max())


@pytest.mark.parametrize("factor", [kautz, potapov_factor, blaschke])
def test_slots_without_input_leave_zero_rows(factor):
    a, B, real = case("mixture", 1 if factor is kautz else 3)
    B[:, 2] = 0
    check(factor, a, B, real)
    L = factor(a, B, real)
    assert (L[:, [2, 9]] == 0).all()


def test_parallel_rows_need_one_direction_each():
    """Rows of B that are real multiples of each other, or of one complex vector: the plane of a pair degenerates."""
    a, B, real = case("complex", 4)
    B[:] = B[:, :1].real * torch.arange(1, 8)[None, :, None]
    check(potapov_factor, a, B, real)
    a, B, real = case("complex", 4)
    B[:] = B[:, :1] * torch.exp(1j * torch.arange(7.0, dtype=torch.float64))[None, :, None]
    check(potapov_factor, a, B, real)


def test_kautz_of_real_slots_only_has_no_imaginary_rows():
    a, B, real = case("real of both signs", 1)
    assert kautz_factor(a, B[:, :, 0], real).shape == (3, 7, 7)


@pytest.mark.parametrize("factor", [kautz, potapov_factor])
def test_empty_columns_come_last(factor):
    L = factor(*case("mixture", 1)).numpy()
    empty = np.abs(L).max(axis=1) == 0
    assert (np.diff(empty.astype(int), axis=1) >= 0).all()
    assert empty.any()


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (1, 3), (3, 1), (2, 2), (20, 17)])
@pytest.mark.parametrize("make", [ring, mixed])
def test_observability_is_the_reachability_of_the_transposed_system(make, inputs, outputs):
    """Q = A^T Q A + C^T C in the same real coordinates, with C = [Re C, -Im C]."""
    reduced = minimal(make(2, 5, inputs, outputs))
    slots = Slots(reduced, slice(0, 2), torch.device("cpu"))
    R, C = slots.observability().numpy(), slots.real_C().numpy()
    A = slots.apply_A(torch.eye(10, dtype=torch.float64).expand(2, -1, -1)).numpy()
    for s in range(2):
        expected = linalg.solve_discrete_lyapunov(A[s].T, C[s].T @ C[s])
        # moduli up to 0.99: ten times less accurate than the others
        np.testing.assert_allclose(R[s] @ R[s].T, expected, rtol=0, atol=10 * RTOL * np.abs(expected).max())


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (2, 3)])
def test_the_careful_path_returns_the_same_gramians_and_cross_products(inputs, outputs):
    reduced = minimal(mixed(2, 5, inputs, outputs))
    slots = Slots(reduced, slice(0, 2), torch.device("cpu"))
    cross, L, R = slots.careful()
    for mine, other in ((L, slots.reachability()), (R, slots.observability())):
        P, Q = mine @ mine.mT, other @ other.mT
        torch.testing.assert_close(P, Q, rtol=0, atol=RTOL * float(Q.abs().max()))
    expected = torch.linalg.svdvals(slots.observability().mT @ slots.reachability())
    torch.testing.assert_close(torch.linalg.svdvals(cross)[:, :10], expected, rtol=0, atol=RTOL * float(expected.max()))


def test_one_factor_serves_both_gramians_of_a_siso_system():
    """R = J L with J = +1 on real parts, -1 on imaginary parts, the sign of b c on real poles."""
    reduced = minimal(mixed(4, 5, seed=3))
    slots = Slots(reduced, slice(0, 4), torch.device("cpu"))
    JL = slots.signature()[:, :, None] * slots.reachability()
    R = slots.observability()
    torch.testing.assert_close(JL @ JL.mT, R @ R.mT, rtol=0, atol=RTOL * float((R @ R.mT).abs().max()))


def test_conjugating_a_pole_and_its_row_mirrors_the_imaginary_coordinate():
    a, B, real = case("complex", 3)
    L, mirrored = potapov_factor(a, B, real), potapov_factor(a.conj().resolve_conj(), B.conj().resolve_conj(), real)
    sign = torch.cat([torch.ones(7), -torch.ones(7)]).to(torch.float64)[:, None]
    P, M = L @ L.mT, mirrored @ mirrored.mT
    torch.testing.assert_close(M, sign * P * sign.T, rtol=0, atol=RTOL * float(P.abs().max()))


@pytest.mark.parametrize("inputs", [1, 3])
def test_factors_near_the_unit_circle_keep_their_digits(inputs):
    """For a single pair the trace of P is |b|^2 / (1 - |lambda|^2), here with 1 - |lambda|^2 = 2e-9."""
    rng = np.random.default_rng(0)
    a = torch.tensor([[-1e-9 + 1.0j]], dtype=torch.complex128)
    B = torch.from_numpy(rng.standard_normal((1, 1, inputs)) + 1j * rng.standard_normal((1, 1, inputs)))
    real = torch.zeros((1, 1), dtype=torch.bool)
    L = potapov_factor(a, B, real) if inputs > 1 else kautz(a, B, real)
    energy = float(L.square().sum())
    assert energy == pytest.approx(float(B.abs().square().sum()) / -np.expm1(-2e-9), rel=1e-14)


def test_batches_and_single_systems_agree():
    system = mixed(9, 6, 3, 2)
    device = torch.device("cpu")
    together = Slots(minimal(system), slice(0, 9), device).reachability()
    alone = [Slots(minimal(pick(system, s)), slice(0, 1), device).reachability()[0] for s in range(9)]
    for s, L in enumerate(alone):
        P = together[s] @ together[s].mT
        torch.testing.assert_close(L @ L.mT, P, rtol=0, atol=1e-13 * float(P.abs().max()))


def test_blocks_survive_pairs_that_are_real_but_for_rounding():
    """As in the difference of a layer and its reduction: real poles stored as pairs, and poles that almost coincide."""
    a, B, real = case("complex", 20, 12, systems=1)
    a[:, :4] = torch.complex(a[:, :4].real, torch.full_like(a[:, :4].real, 1e-14))
    B[:, :4] = torch.complex(B[:, :4].real, 1e-14 * B[:, :4].imag)
    a[:, 6] = a[:, 5] * (1 + 1e-12)
    L = block_potapov_factor(a, B, real)[0].numpy()
    lam, rows = np.exp(a[0].numpy()), B[0].numpy()
    re, im = np.diag(np.real(lam)), np.diag(np.imag(lam))
    A, b = np.block([[re, -im], [im, re]]), np.concatenate([np.real(rows), np.imag(rows)])
    P = L @ L.T
    # a pivot as small as rounding, 1e-15 of its pair, costs half the digits of what follows it
    np.testing.assert_allclose(A @ P @ A.T + b @ b.T, P, rtol=0, atol=1e-7 * np.abs(P).max())
