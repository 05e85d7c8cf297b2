"""Three ways from a dense realisation with ill-conditioned eigenvectors to poles and residues, and the choice.

The eigenvector matrix of a balanced A_r can be badly conditioned (poles close to each other). `direct` is the plain
eigendecomposition; `perturbed` moves A by delta |A| times noise, so that its eigenvectors become well-conditioned
(perturb-then-diagonalise); `refitted` keeps the poles of either and finds C anew by least squares on the frequency
response. Each is measured against the response of the dense realisation, and `choose` keeps the one with the least
error, the simplest among equals.

Measured on the slots as they are returned: residues of nearly equal poles cancel, and then even the rounding of a pole
to the exponential of its logarithm counts.

Sources: docs/numerics.md; Banks, Garza-Vargas, Kulkarni & Srivastava, Found. Comput. Math. 23 (2023);
Yu et al., "Robustifying State-space Models for Long Sequences via Approximate Diagonalization", ICLR 2024.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

DELTAS = 10.0 ** np.arange(-14, -3)
_FASTEST = -700.0  # logarithm of the fastest pole kept: exp stays a normal number

Way = Literal["direct", "perturbed", "refit"]
Complex = NDArray[np.complexfloating]


@dataclass(frozen=True)
class PoleResidues:
    """One system in pole-residue form, y = Re(C x): one slot per pair, C doubled, and one per real pole.

    Attributes:
        a: (k,) logarithms of the poles, B: (k, m), C: (p, k) complex128, the slowest first.
        way: how they were found.
        error: largest deviation of the frequency response from the dense one, relative to its largest gain; infinite
            for poles on or outside the unit circle.
    """

    a: Complex
    B: Complex
    C: Complex
    way: Way = "direct"
    error: float = np.inf


@dataclass(frozen=True)
class Response:
    """What candidates are measured against.

    Attributes:
        omega: (F,) frequencies: the angles of the poles, one bandwidth beside them, and a fixed set.
        exact: (F, p, m) complex128, C (I - A e^{-i omega})^-1 B by solves.
    """

    omega: np.ndarray
    exact: Complex

    def error(self, a: Complex, B: Complex, C: Complex) -> float:
        """Largest deviation of the response of the slots, relative to the largest gain."""
        if not (a.real.max(initial=-1.0) < 0 and np.isfinite(B).all() and np.isfinite(C).all()):
            return np.inf
        plain, mirror = _resolvents(a, self.omega)
        response = ((C * plain[:, None]) @ B + (C.conj() * mirror[:, None]) @ B.conj()) / 2
        return float(np.abs(response - self.exact).max() / max(np.abs(self.exact).max(), 1e-300))


def response(A: np.ndarray, B: np.ndarray, C: np.ndarray) -> Response:
    """The frequency response of one stable dense system, (n, n), (n, m), (p, n) float64, where it matters."""
    lam = np.linalg.eigvals(A).astype(np.complex128)
    angle, damping = np.abs(np.angle(lam)), -np.log(np.maximum(np.abs(lam), 1e-300))
    beside = np.clip(np.concatenate([angle, angle - damping, angle + damping]), 0, np.pi)
    omega = np.concatenate([beside, np.linspace(0, np.pi, 17), np.logspace(-3, 0, 16) * np.pi])
    z = np.exp(-1j * omega)[:, None, None]
    right = np.broadcast_to(B, (len(z), *B.shape)).astype(np.complex128)
    return Response(omega, C @ np.linalg.solve(np.eye(A.shape[0]) - z * A, right))


def direct(A: np.ndarray, B: np.ndarray, C: np.ndarray, against: Response | None = None) -> PoleResidues:
    """The plain eigendecomposition of one dense system, measured.

    Args:
        A: (n, n), B: (n, m), C: (p, n) float64.
        against: the response of that system, computed if not given.
    """
    return _measured(half(*eigen(A, B, C)[:3]), "direct", against or response(A, B, C))


def perturbed(A: np.ndarray, B: np.ndarray, C: np.ndarray, against: Response | None = None) -> PoleResidues:
    """The best eigendecomposition of A + delta |A| N, N fixed noise of norm about 2, delta from 1e-14 to 1e-4."""
    truth = against or response(A, B, C)
    found = [_measured(slots, "perturbed", truth) for slots in _moved(A, B, C)]
    return min(found, key=lambda slots: slots.error)


def refitted(A: np.ndarray, B: np.ndarray, C: np.ndarray, against: Response | None = None) -> PoleResidues:
    """The best least-squares fit of C to the response, for the poles and rows of B of `direct` and of `perturbed`."""
    truth = against or response(A, B, C)
    starts = [half(*eigen(A, B, C)[:3]), *_moved(A, B, C)]
    found = [_measured(_fit(slots, truth), "refit", truth) for slots in starts]
    return min(found, key=lambda slots: slots.error)


def choose(A: np.ndarray, B: np.ndarray, C: np.ndarray) -> PoleResidues:
    """The one of `direct`, `perturbed` and `refitted` with the least measured error; the first of equals."""
    truth = response(A, B, C)
    return min((way(A, B, C, truth) for way in (direct, perturbed, refitted)), key=lambda slots: slots.error)


def eigen(A: np.ndarray, B: np.ndarray, C: np.ndarray) -> tuple[Complex, Complex, Complex, float]:
    """Eigenvalues (n,), B (n, m) and C (p, n) in their basis, and its condition; B = 0 where it cannot be inverted."""
    lam, X = np.linalg.eig(A)
    lam, X = lam.astype(np.complex128), X.astype(np.complex128)
    condition = float(np.linalg.cond(X))
    if not condition < 1 / np.finfo(float).eps:
        return lam, np.zeros((len(lam), B.shape[1]), dtype=np.complex128), C @ X, np.inf
    return lam, np.linalg.solve(X, B.astype(np.complex128)), C @ X, condition


def half(lam: Complex, B: Complex, C: Complex) -> PoleResidues:
    """One slot per conjugate pair (the member above the real axis, C doubled) and one per real pole."""
    real = lam.imag == 0
    keep = real | (lam.imag > 0)
    with np.errstate(divide="ignore"):
        a: Complex = np.log(np.abs(lam)) + 1j * np.angle(lam)
    a = np.where(a.real < _FASTEST, _FASTEST + 1j * a.imag, a)
    C = np.where(real, C.real, 2 * C)
    B = np.where(real[:, None], B.real, B)
    order = np.argsort(-a.real[keep], kind="stable")
    return PoleResidues(a[keep][order], B[keep][order], C[:, keep][:, order])


def _measured(slots: PoleResidues, way: Way, truth: Response) -> PoleResidues:
    return PoleResidues(slots.a, slots.B, slots.C, way, truth.error(slots.a, slots.B, slots.C))


def _moved(A: np.ndarray, B: np.ndarray, C: np.ndarray) -> Iterator[PoleResidues]:
    """Eigendecompositions of A moved by more and more noise, always the same."""
    noise = np.random.default_rng(0).standard_normal(A.shape) / np.sqrt(max(A.shape[0], 1))
    for delta in DELTAS:
        yield half(*eigen(A + delta * np.linalg.norm(A, 2) * noise, B, C)[:3])


def _fit(slots: PoleResidues, truth: Response) -> PoleResidues:
    """C by least squares on the frequency response for fixed slots and fixed rows of B (normalised)."""
    norm = np.linalg.norm(slots.B, axis=1, keepdims=True)
    B = np.where(norm > 0, slots.B / np.where(norm > 0, norm, 1.0), 1.0 / np.sqrt(slots.B.shape[1]))
    plain, mirror = (r[:, :, None] for r in _resolvents(slots.a, truth.omega))
    # The response is real-linear in Re C and Im C; as one real problem, conjugate pairs stay conjugate.
    basis = np.concatenate([plain * B + mirror * B.conj(), 1j * (plain * B - mirror * B.conj())], axis=1) / 2
    k = len(slots.a)
    matrix = basis.transpose(0, 2, 1).reshape(-1, 2 * k)  # (F m, 2 k)
    rhs = truth.exact.transpose(0, 2, 1).reshape(matrix.shape[0], -1)
    matrix, rhs = (np.concatenate([x.real, x.imag]) for x in (matrix, rhs))
    solution = np.linalg.lstsq(matrix, rhs, rcond=1e-13)[0].T
    return PoleResidues(slots.a, B, solution[:, :k] + 1j * solution[:, k:])


def _resolvents(a: Complex, omega: np.ndarray) -> tuple[Complex, Complex]:
    """1 / (1 - lambda e^{-i omega}) for the poles exp(a) and for their mirror images, (F, k) each."""
    turn = 1j * omega[:, None]
    below: Complex = np.expm1(a - turn)
    mirrored: Complex = np.expm1(a.conj() - turn)
    return -1 / below, -1 / mirrored
