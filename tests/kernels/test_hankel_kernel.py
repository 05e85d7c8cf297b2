"""Batched Hankel singular values: against the engine of ssmtool, against many digits, and at the edges.

The conformance suite compares backends; here they are held against what does not share a line with them.
"""

from __future__ import annotations

from collections.abc import Callable

import mpmath
import numpy as np
import pytest
import torch

from ssmtool.lti import hankel
from ssmtool.lti.hankel import hankel_singular_values
from ssmtool.lti.minimal import minimal
from ssmtool.lti.systems import DiagonalSystem
from ssmtool_kernels import native
from ssmtool_kernels.backends import BackendError, interpreting
from ssmtool_kernels.hankel import LARGEST, hankel_values

needs_compiler = pytest.mark.skipif(bool(native.missing()), reason=native.missing() or "no compiler")
BACKENDS = ("naive", pytest.param("cpu", marks=needs_compiler))
RNG = np.random.default_rng


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


def system(a: np.ndarray, residue: np.ndarray, real: bool = False) -> DiagonalSystem:
    """Systems (S, N) with B = 1 and C the residues."""
    ones = np.ones((*a.shape, 1), dtype=complex)
    return DiagonalSystem(
        a.astype(complex), ones, residue[:, None].astype(complex), np.zeros((len(a), 1, 1)), real=real
    )


def tensors(system: DiagonalSystem) -> tuple[torch.Tensor, ...]:
    """The arguments of the operation, from the minimal form."""
    reduced = minimal(system)
    B, C = reduced.B[:, :, 0].astype(np.complex128), reduced.C[:, 0].astype(np.complex128)
    return tuple(torch.from_numpy(x) for x in (reduced.a, B, C, reduced.real))


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Callable[[DiagonalSystem], np.ndarray]:
    """Values by ssmtool's own factors and LAPACK, the kernels switched off."""

    def values(given: DiagonalSystem) -> np.ndarray:
        with monkeypatch.context() as patch:
            patch.setattr(hankel, "_COMPILED", {})
            return hankel_singular_values(given).sigma

    return values


def s4d(rng: np.random.Generator) -> DiagonalSystem:
    dt = np.exp(rng.uniform(np.log(1e-3), np.log(1e-1), (24, 1)))
    poles = -0.5 * np.exp(0.3 * rng.standard_normal((24, 32))) + 1j * np.pi * np.arange(32)
    return system(dt * poles, normal(rng, 24, 32))


def lru(rng: np.random.Generator) -> DiagonalSystem:
    modulus, angle = rng.uniform(0.4, 0.999, (16, 24)), rng.uniform(0, np.pi, (16, 24))
    return system(np.log(modulus) + 1j * angle, normal(rng, 16, 24))


def clustered(rng: np.random.Generator) -> DiagonalSystem:
    return system(-0.1 + 1j + 1e-5 * normal(rng, 8, 6), normal(rng, 8, 6))


def near_circle(rng: np.random.Generator) -> DiagonalSystem:
    return system(-(10.0 ** rng.uniform(-8, -1, (8, 12))) + 1j * rng.uniform(0, np.pi, (8, 12)), normal(rng, 8, 12))


def nearly_real(rng: np.random.Generator) -> DiagonalSystem:
    angle = 10.0 ** rng.uniform(-9, 0, (8, 6))
    return system(-(10.0 ** rng.uniform(-3, 0, (8, 6))) + 1j * angle, normal(rng, 8, 6))


def mixed(rng: np.random.Generator) -> DiagonalSystem:
    """Real poles of both signs among pairs, a real one stored as half of a pair, residues of both signs."""
    angle = np.where(rng.random((12, 9)) < 0.5, rng.choice([0.0, np.pi], (12, 9)), rng.uniform(0.1, 3, (12, 9)))
    return system(-(10.0 ** rng.uniform(-2, 0.5, (12, 9))) + 1j * angle, normal(rng, 12, 9))


def all_real(rng: np.random.Generator) -> DiagonalSystem:
    return system(-(10.0 ** rng.uniform(-3, 0.5, (8, 20))), rng.standard_normal((8, 20)), real=True)


def full(rng: np.random.Generator) -> DiagonalSystem:
    return system(-(10.0 ** rng.uniform(-4, 0, (2, 64))) + 1j * rng.uniform(0, np.pi, (2, 64)), normal(rng, 2, 64))


KINDS = (s4d, lru, clustered, near_circle, nearly_real, mixed, all_real, full)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_the_engine(
    kind: Callable[[np.random.Generator], DiagonalSystem],
    backend: str,
    engine: Callable[[DiagonalSystem], np.ndarray],
) -> None:
    if backend == "naive" and kind in (s4d, full):
        pytest.skip("orders for the compiled code")
    given = kind(RNG(3))
    expected = engine(given)
    found = hankel_values(*tensors(given), backend=backend).numpy()
    width = expected.shape[1]
    assert not found[:, width:].any()
    found = found[:, :width]
    assert np.array_equal(found == 0, expected == 0)
    assert (np.diff(found, axis=1) <= 0).all()
    worst = np.abs(found - expected) / np.where(expected > 0, expected, 1)
    assert worst.max() <= 1e-10


def many_digits(given: DiagonalSystem, digits: int) -> np.ndarray:
    """sqrt(eig(P Q)) of the real system, its Lyapunov equations solved as dense linear ones."""
    with mpmath.workdps(digits):
        n = 2 * given.a.shape[1]
        A, B, C = mpmath.zeros(n), mpmath.zeros(n, 1), mpmath.zeros(1, n)
        for i, (a, b, c) in enumerate(zip(given.a[0], given.B[0, :, 0], given.C[0, 0], strict=True)):
            lam = mpmath.exp(mpmath.mpc(a.real, a.imag))
            A[2 * i, 2 * i] = A[2 * i + 1, 2 * i + 1] = lam.real
            A[2 * i + 1, 2 * i], A[2 * i, 2 * i + 1] = lam.imag, -lam.imag
            B[2 * i], B[2 * i + 1], C[2 * i], C[2 * i + 1] = b.real, b.imag, c.real, -c.imag
        P, Q = _lyapunov(A, B), _lyapunov(A.T, C.T)
        values = mpmath.eig(P * Q, left=False, right=False)
        return np.array(sorted((float(mpmath.sqrt(abs(v))) for v in values), reverse=True))


def _lyapunov(A, B):
    """P = A P A^T + B B^T by one linear system."""
    n = A.rows
    K = mpmath.eye(n * n)
    right = mpmath.zeros(n * n, 1)
    for i in range(n):
        for j in range(n):
            right[i * n + j] = B[i] * B[j]
            for k in range(n):
                for m in range(n):
                    K[i * n + j, k * n + m] -= A[i, k] * A[j, m]
    solved = mpmath.lu_solve(K, right)
    P = mpmath.matrix(n, n)
    for i in range(n):
        for j in range(n):
            P[i, j] = solved[i * n + j]
    return P


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("spread", [1.0, 0.05])
def test_order_eight_in_fifty_digits(spread: float, backend: str) -> None:
    rng = RNG(5)
    angles = 0.7 + spread * np.array([[0.1, 0.9, 1.4, 2.0]])
    given = system(-np.array([[0.02, 0.1, 0.3, 0.5]]) + 1j * angles, normal(rng, 1, 4))
    truth = many_digits(given, 50)
    found = hankel_values(*tensors(given), backend=backend).numpy()[0]
    assert np.abs(found / truth - 1).max() <= 1e-12


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("angle", [4e-3, 2e-3, 1e-6])
def test_a_pair_close_to_the_real_axis(angle: float, backend: str) -> None:
    """Angle over damping on both sides of where pairs are no longer taken as pairs."""
    damping = np.array([[0.02, 0.1, 0.3, 0.5]])
    given = system(-damping + 1j * np.array([[0.02 * angle, 0.9, 1.4, 2.0]]), normal(RNG(12), 1, 4))
    truth = many_digits(given, 60)
    found = hankel_values(*tensors(given), backend=backend).numpy()[0]
    assert np.abs(found / truth - 1).max() <= 1e-10


@pytest.mark.parametrize("backend", BACKENDS)
def test_values_keep_their_digits_down_to_underflow(backend: str) -> None:
    """Residues from 1e-200 to 1: values over 200 orders of magnitude, where squares have underflowed long before."""
    rng = RNG(6)
    size = 10.0 ** np.array([[0, -200, -60, -150]])
    given = system(-np.array([[0.02, 0.1, 0.3, 0.5]]) + 1j * np.array([[0.1, 0.9, 1.4, 2.0]]), size * normal(rng, 1, 4))
    truth = many_digits(given, 950)
    found = hankel_values(*tensors(given), backend=backend).numpy()[0]
    assert truth[-1] < 1e-190
    assert np.abs(found / truth - 1).max() <= 1e-12


@needs_compiler
@pytest.mark.parametrize("kind", [lru, mixed, clustered, all_real])
def test_ssmtool_takes_the_kernel_and_finds_the_same(
    kind: Callable[[np.random.Generator], DiagonalSystem],
    engine: Callable[[DiagonalSystem], np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = kind(RNG(3))
    expected = engine(given)
    calls: list[int] = []
    monkeypatch.setattr(hankel, "hankel_values", lambda *x: (calls.append(len(x[0])), hankel_values(*x))[1])
    found = hankel_singular_values(given)
    assert calls
    assert np.array_equal(found.sigma == 0, expected == 0)
    np.testing.assert_allclose(found.sigma, expected, rtol=1e-10, atol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_agrees_with_the_engine(
    kind: Callable[[np.random.Generator], DiagonalSystem], engine: Callable[[DiagonalSystem], np.ndarray]
) -> None:
    given = kind(RNG(3))
    expected = engine(given)
    found = hankel_values(*(x.cuda() for x in tensors(given)), backend="triton").cpu().numpy()[:, : expected.shape[1]]
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_real_pole_in_closed_form(backend: str) -> None:
    """b c / (1 - lambda^2) in modulus, for poles near 1, near -1, near 0, and a negative residue."""
    a = torch.tensor([[-1e-12], [-0.5 + torch.pi * 1j], [-30.0], [-1e-3]], dtype=torch.complex128)
    residue = torch.tensor([[2.0], [3.0], [1e-3], [-7.0]], dtype=torch.complex128)
    found = hankel_values(a, torch.ones_like(a), residue, torch.ones_like(a, dtype=torch.bool), backend=backend)
    expected = residue.abs() / -torch.expm1(2 * a.real)
    assert torch.allclose(found[:, :1], expected, rtol=1e-14, atol=0)
    assert not found[:, 1:].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_scaling_and_rotating_states_change_nothing(backend: str) -> None:
    a, B, C, real = tensors(lru(RNG(7)))
    factor = torch.exp(torch.from_numpy(normal(RNG(8), *a.shape)))
    one = hankel_values(a[:2], B[:2], C[:2], real[:2], backend=backend)
    two = hankel_values(a[:2].conj(), (B * factor)[:2].conj(), (C / factor)[:2].conj(), real[:2], backend=backend)
    assert torch.allclose(one, two, rtol=1e-11, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_slots_that_are_off_do_not_matter(backend: str) -> None:
    """Systems of different orders in one batch: each as if alone, whatever the poles of its empty slots."""
    a, B, C, real = (x[:3, :8].clone() for x in tensors(lru(RNG(9))))
    for s, live in enumerate((8, 5, 0)):
        C[s, live:] = 0
        a[s, live:] = 1.0 if s == 1 else float("nan")
    together = hankel_values(a, B, C, real, backend=backend)
    for s, live in enumerate((8, 5, 0)):
        alone = hankel_values(
            a[s : s + 1, :live], B[s : s + 1, :live], C[s : s + 1, :live], real[s : s + 1, :live], backend=backend
        )
        assert torch.allclose(together[s, : 2 * live], alone[0], rtol=1e-12, atol=0)
        assert not together[s, 2 * live :].any()


def test_no_systems_and_no_slots() -> None:
    for shape in ((0, 3), (2, 0), (0, 0)):
        empty = torch.zeros(shape, dtype=torch.complex128)
        found = hankel_values(empty, empty, empty, torch.zeros(shape, dtype=torch.bool))
        assert found.shape == (shape[0], 2 * shape[1])
        assert found.dtype == torch.float64


@needs_compiler
def test_results_are_the_same_bit_for_bit_on_any_number_of_threads_and_in_any_batch() -> None:
    given = tensors(s4d(RNG(10)))
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(hankel_values(*given, backend="cpu"))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    alone = torch.cat([hankel_values(*(x[s : s + 1] for x in given), backend="cpu") for s in range(4)])
    assert torch.equal(found[0][:4], alone)


@pytest.mark.skipif(not interpreting(), reason="Triton's interpreter is off")
def test_the_triton_kernel_agrees_on_graded_systems() -> None:
    """S4D-Real: values over nine orders of magnitude, all poles real; and two pairs of very different size."""
    ladder = system(-0.05 * np.arange(1.0, 5)[None], np.ones((1, 4)), real=True)
    uneven = system(np.array([[-0.1 + 1j, -0.3 + 2j]]), np.array([[1.0 + 1j, 1e-180 - 1e-180j]]))
    for given in (ladder, uneven):
        expected = hankel_values(*tensors(given), backend="naive")
        found = hankel_values(*tensors(given), backend="triton")
        assert torch.allclose(found, expected, rtol=1e-12, atol=0)


def arguments() -> dict[str, torch.Tensor]:
    a = torch.full((2, 3), -0.5 + 1j, dtype=torch.complex128) * torch.arange(1, 4)
    return {"a": a, "B": torch.ones_like(a), "C": torch.ones_like(a), "real": torch.zeros((2, 3), dtype=torch.bool)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"a": torch.full((2, 3), 0.1 + 1j, dtype=torch.complex128)}, "system 0 has a pole that is not stable"),
        ({"a": torch.full((2, 3), float("nan"), dtype=torch.complex128)}, "not finite"),
        ({"B": torch.full((2, 3), float("inf"), dtype=torch.complex128)}, "not finite"),
        ({"a": torch.ones(2, 3)}, "complex"),
        ({"B": torch.ones(2, 4, dtype=torch.complex128)}, "B has shape"),
        ({"C": torch.ones(2, 3, dtype=torch.complex64)}, "C is torch.complex64"),
        ({"real": torch.zeros(2, 3)}, "bool"),
    ],
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_cannot_be_computed_is_refused(change: dict[str, torch.Tensor], said: str, backend: str) -> None:
    with pytest.raises(ValueError, match=said):
        hankel_values(**{**arguments(), **change}, backend=backend)  # type: ignore[arg-type]


def test_systems_that_are_too_large_and_backends_that_do_not_exist_are_refused() -> None:
    large = torch.zeros((1, LARGEST + 1), dtype=torch.complex128)
    with pytest.raises(ValueError, match=f"{LARGEST} at most"):
        hankel_values(large, large, large, torch.zeros(large.shape, dtype=torch.bool))
    with pytest.raises(BackendError, match="no backend"):
        hankel_values(**arguments(), backend="gpu")  # type: ignore[arg-type]
