"""From a dense reduced realisation back to poles and residues, checked, and mended where it is ill-conditioned.

The eigenvector matrix of a balanced A_r can be badly conditioned (poles close to each other). Three candidates are
compared by their measured transfer-function error against the dense realisation: the plain eigendecomposition;
perturb-then-diagonalise, which moves A_r by delta ||A_r|| times noise so that its eigenvectors become well-conditioned;
and a least-squares refit of the residues with the poles fixed. The one with the least error is kept.

Sources: docs/numerics.md; Banks, Garza-Vargas, Kulkarni & Srivastava, Found. Comput. Math. 23 (2023);
Yu et al., "Robustifying State-space Models for Long Sequences via Approximate Diagonalization", ICLR 2024.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssmtool.lti.systems import DiagonalSystem

_WELL_CONDITIONED = 1e6  # condition of the eigenvectors up to which the plain decomposition is not second-guessed
_DELTAS = 10.0 ** np.arange(-14, -3)
_FASTEST = -700.0  # logarithm of the fastest pole kept: exp stays a normal number


@dataclass(frozen=True)
class Diagonalised:
    """Reduced systems in pole-residue form.

    Attributes:
        system: S systems with as many slots as the widest needs; unused slots have C = 0.
        slots: (S,) int64, slots each system uses: one per complex pair and one per real pole.
        orders: (S,) int64, states of each system.
        method: per system "direct", "perturbed" or "refit".
        error: (S,) largest deviation of the frequency response from the dense realisation relative to its largest gain;
            for well-conditioned eigenvectors the bound condition * eps instead of a measurement.
    """

    system: DiagonalSystem
    slots: np.ndarray
    orders: np.ndarray
    method: tuple[str, ...]
    error: np.ndarray


def diagonalise(A: np.ndarray, B: np.ndarray, C: np.ndarray, D: np.ndarray, orders: np.ndarray) -> Diagonalised:
    """Pole-residue form of the leading orders[s] x orders[s] block of each realisation.

    A truncation with a pole that rounding pushed out of the unit circle is cut one state earlier.

    Args:
        A: (S, k, k), B: (S, k, m), C: (S, p, k), D: (S, p, m) float64. orders: (S,) int64, each <= k.
    """
    systems = A.shape[0]
    pieces: list[tuple | None] = [None] * systems
    orders = orders.copy()
    for r in np.unique(orders):
        if r == 0:
            continue
        index = np.flatnonzero(orders == r)
        lam, X = np.linalg.eig(A[index, :r, :r])
        lam, X = lam.astype(np.complex128), X.astype(np.complex128)
        condition = np.linalg.cond(X)
        usable = condition < 1 / np.finfo(float).eps
        Bd = np.zeros((len(index), r, B.shape[2]), dtype=np.complex128)
        Bd[usable] = np.linalg.solve(X[usable], B[index[usable], :r].astype(np.complex128))
        Cd = C[index, :, :r] @ X
        for k, s in enumerate(index):
            pieces[s] = (lam[k], Bd[k], Cd[k], condition[k])
    chosen, methods, errors = [], [], np.zeros(systems)
    for s in range(systems):
        r = int(orders[s])
        piece = pieces[s]
        while r and (piece is None or np.abs(piece[0]).max() >= 1.0):
            if piece is not None:
                r -= 1
            piece = _eig(A[s, :r, :r], B[s, :r], C[s, :, :r]) if r else None
        orders[s] = r
        if piece is None:
            chosen.append(
                (np.zeros(0, complex), np.zeros((0, B.shape[2]), complex), np.zeros((C.shape[1], 0), complex))
            )
            methods.append("direct")
            continue
        best, method, error = _best(A[s, :r, :r], B[s, :r], C[s, :, :r], piece)
        chosen.append(best)
        methods.append(method)
        errors[s] = error
    slots = np.array([len(c[0]) for c in chosen], dtype=np.int64)
    return Diagonalised(_stack(chosen, D), slots, orders, tuple(methods), errors)


def _eig(A: np.ndarray, B: np.ndarray, C: np.ndarray):
    lam, X = np.linalg.eig(A)
    lam, X = lam.astype(np.complex128), X.astype(np.complex128)
    condition = np.linalg.cond(X)
    if not condition < 1 / np.finfo(float).eps:
        return lam, np.zeros((len(lam), B.shape[1]), complex), C @ X, np.inf
    return lam, np.linalg.solve(X, B.astype(complex)), C @ X, condition


def _best(A, B, C, piece):
    """The best of direct, perturbed and refit pole-residue forms (slots a, B, C) of one dense system, by measurement.

    Measured on the slots as they are returned: residues of nearly equal poles cancel, and then even the rounding of a
    pole to the exponential of its logarithm counts.
    """
    lam, Bd, Cd, condition = piece
    direct = _half(lam, Bd, Cd)
    if condition <= _WELL_CONDITIONED:
        return direct, "direct", condition * np.finfo(float).eps
    angle, damping = np.abs(np.angle(lam)), -np.log(np.maximum(np.abs(lam), 1e-300))
    beside = np.clip(np.concatenate([angle, angle - damping, angle + damping]), 0, np.pi)
    omega = np.concatenate([beside, np.linspace(0, np.pi, 17), np.logspace(-3, 0, 16) * np.pi])
    z = np.exp(-1j * omega)[:, None, None]
    exact = C @ np.linalg.solve(np.eye(A.shape[0]) - z * A, np.broadcast_to(B, (len(z), *B.shape)).astype(complex))
    scale = max(np.abs(exact).max(), 1e-300)

    def error(candidate) -> float:
        a, b, c = candidate
        if not (a.real.max(initial=-1.0) < 0 and np.isfinite(b).all() and np.isfinite(c).all()):
            return np.inf
        plain, mirror = _resolvents(a, omega)
        response = ((c * plain[:, None]) @ b + (c.conj() * mirror[:, None]) @ b.conj()) / 2
        return float(np.abs(response - exact).max() / scale)

    found = [(error(direct), 0, "direct", direct)]
    noise = np.random.default_rng(0).standard_normal(A.shape) / np.sqrt(A.shape[0])
    for delta in (0.0, *_DELTAS):
        candidate = direct
        if delta:
            candidate = _half(*_eig(A + delta * np.linalg.norm(A, 2) * noise, B, C)[:3])
            found.append((error(candidate), 1, "perturbed", candidate))
        refit = _refit(candidate[0], candidate[1], exact, omega)
        found.append((error(refit), 2, "refit", refit))
    least = min(found, key=lambda f: (f[0], f[1]))
    return least[3], least[2], least[0]


def _resolvents(a: np.ndarray, omega: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """1 / (1 - lambda e^{-i omega}) for the poles exp(a) and for their mirror images, (F, k) each."""
    turn = 1j * omega[:, None]
    return -1 / np.expm1(a - turn), -1 / np.expm1(a.conj() - turn)


def _refit(a, b, exact, omega):
    """C by least squares on the frequency response for fixed slots and fixed rows of B (normalised)."""
    norm = np.linalg.norm(b, axis=1, keepdims=True)
    b = np.where(norm > 0, b / np.where(norm > 0, norm, 1.0), 1.0 / np.sqrt(b.shape[1]))
    plain, mirror = (r[:, :, None] for r in _resolvents(a, omega))
    # The response is real-linear in Re C and Im C; as one real problem, conjugate pairs stay conjugate.
    basis = np.concatenate([plain * b + mirror * b.conj(), 1j * (plain * b - mirror * b.conj())], axis=1) / 2
    matrix = basis.transpose(0, 2, 1).reshape(-1, 2 * len(a))  # (F m, 2 k)
    rhs = exact.transpose(0, 2, 1).reshape(matrix.shape[0], -1)
    matrix, rhs = (np.concatenate([x.real, x.imag]) for x in (matrix, rhs))
    solution = np.linalg.lstsq(matrix, rhs, rcond=1e-13)[0].T
    return a, b, solution[:, : len(a)] + 1j * solution[:, len(a) :]


def _half(lam: NDArray[np.complexfloating], B: NDArray[np.complexfloating], C: NDArray[np.complexfloating]):
    """One slot per conjugate pair (the member above the real axis, C doubled) and one per real pole; a, B, C."""
    real = lam.imag == 0
    upper = lam.imag > 0
    keep = real | upper
    with np.errstate(divide="ignore"):
        a: NDArray[np.complexfloating] = np.log(np.abs(lam)) + 1j * np.angle(lam)
    a = np.where(a.real < _FASTEST, _FASTEST + 1j * a.imag, a)
    C = np.where(real, C.real, 2 * C)
    B = np.where(real[:, None], B.real, B)
    order = np.argsort(-a.real[keep], kind="stable")
    return a[keep][order], B[keep][order], C[:, keep][:, order]


def _stack(chosen, D: np.ndarray) -> DiagonalSystem:
    """Systems of different slot counts side by side; the padding has B = C = 0 and a harmless pole."""
    systems, width = len(chosen), max([len(c[0]) for c in chosen] + [1])
    m, p = D.shape[2], D.shape[1]
    a = np.full((systems, width), -1.0 + 0j)
    B, C = np.zeros((systems, width, m), complex), np.zeros((systems, p, width), complex)
    for s, (ai, Bi, Ci) in enumerate(chosen):
        a[s, : len(ai)], B[s, : len(ai)], C[s, :, : len(ai)] = ai, Bi, Ci
    return DiagonalSystem(a, B, C, D)
