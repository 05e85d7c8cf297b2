"""Tangential IRKA: the fixed point whose poles interpolate at their own mirror images, for several inputs and outputs.

With w = 1/z and G(w) = sum_k h_k w^k, an H2-optimal reduced system with poles mu_i and residues c_i b_i^T fulfils

    G(mu_i) b_i = G_r(mu_i) b_i,     c_i^T G(mu_i) = c_i^T G_r(mu_i),     c_i^T G'(mu_i) b_i = c_i^T G_r'(mu_i) b_i.

Each step projects onto the spans of (I - mu_i A)^-1 B b_i and (I - mu_i A^T)^-1 C^T c_i, which interpolates like this
at the poles and directions of the step before.

Source: Gugercin, Antoulas & Beattie, SIAM J. Matrix Anal. Appl. 30 (2008); Bunse-Gerstner, Kubalinska, Vossen &
Wilczek, J. Comput. Appl. Math. 233 (2010), for discrete time and several inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_STEPS = 100
_SETTLED = 1e-11  # largest move of a pole at which the iteration has converged


@dataclass(frozen=True)
class Tangential:
    """Poles and residues of one reduced system: real ones, and the upper one of every pair.

    Attributes:
        mu: (k,), b: (k, m), c: (k, p) complex128; the system is Re sum_i c_i b_i^T / (1 - mu_i w), c doubled for pairs.
    """

    mu: NDArray[np.complexfloating]
    b: NDArray[np.complexfloating]
    c: NDArray[np.complexfloating]

    def closed(self) -> tuple[NDArray[np.complexfloating], ...]:
        """mu, b, c with both members of every pair, each with its own residue."""
        pair = self.mu.imag != 0
        c = np.where(pair[:, None], self.c / 2, self.c)
        return tuple(np.concatenate([x, x[pair].conj()]) for x in (self.mu, self.b, c))


def irka(
    a: NDArray[np.complexfloating], B: NDArray[np.complexfloating], C: NDArray[np.complexfloating], start: Tangential
) -> Tangential:
    """The iterate with the least H2 error of a tangential IRKA iteration, the start included.

    Args:
        a: (N,), B: (N, m), C: (p, N) complex128, one slot per pair or real pole, y = Re(C x), as in `lti.minimal`.
    """
    lam: NDArray[np.complexfloating] = np.exp(a)
    real_B, real_C, mirror = real_parts(B, C)
    current = best = start
    least = np.inf
    for _ in range(_STEPS):
        mu, b, c = current.closed()
        reach = krylov(lam, B, mu, b)
        # |G - G_r|^2 less |G|^2, by the values at the poles
        own = (c @ c.T) * (b @ b.T) / (1 - mu[:, None] * mu)
        excess = float(own.sum().real - 2 * (c * (real_C @ reach).T).sum().real)
        if excess < least:
            least, best = excess, current
        V = _real_basis(reach, mu)
        W = _real_basis(mirror * krylov(lam, C.T, mu, c), mu)
        try:
            projected = np.linalg.solve(W.T @ V, W.T @ np.concatenate([turned(lam, V), real_B], axis=1))
            following = _modal(projected[:, : V.shape[1]], projected[:, V.shape[1] :], real_C @ V)
        except np.linalg.LinAlgError:
            return best  # the two subspaces have lost each other: nothing better this way
        moved = np.abs(following.mu[:, None] - current.mu).min(axis=1).max()
        current = following
        if moved < _SETTLED:
            break
    return best


def _modal(A: np.ndarray, B: np.ndarray, C: np.ndarray) -> Tangential:
    """Poles and residues of a real system; poles outside the unit circle are reflected."""
    mu, X = np.linalg.eig(A)
    mu, X = mu.astype(np.complex128), X.astype(np.complex128)
    b, c = np.linalg.solve(X, B.astype(np.complex128)), (C @ X).T
    keep = mu.imag >= 0
    mu, b, c = mu[keep], b[keep], c[keep]
    c = np.where(mu.imag[:, None] > 0, 2 * c, c)
    mu = np.where(np.abs(mu) >= 1, 1 / np.where(mu == 0, 1, mu).conj(), mu)
    return Tangential(np.where(np.abs(mu) >= 1, mu / np.abs(mu) * (1 - 1e-12), mu), b, c)


def real_parts(
    B: NDArray[np.complexfloating], C: NDArray[np.complexfloating]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """B (2N, m) and C (p, 2N) in the real coordinates (Re x, Im x), and the signs J (2N, 1) with A^T = J A J there."""
    sign = np.ones((len(B), 1))
    return (
        np.concatenate([B.real, B.imag]),
        np.concatenate([C.real, -C.imag], axis=1),
        np.concatenate([sign, -sign]),
    )


def turned(lam: NDArray[np.complexfloating], X: np.ndarray) -> np.ndarray:
    """A X, X (2N, k), in real coordinates."""
    re, im, n = lam.real[:, None], lam.imag[:, None], len(lam)
    return np.concatenate([re * X[:n] - im * X[n:], im * X[:n] + re * X[n:]])


def krylov(
    lam: NDArray[np.complexfloating],
    B: NDArray[np.complexfloating],
    mu: NDArray[np.complexfloating],
    b: NDArray[np.complexfloating],
) -> NDArray[np.complexfloating]:
    """(2N, r): (I - mu_i A)^-1 B b_i in the real coordinates (Re x, Im x)."""
    upper = (B @ b.T) / (1 - lam[:, None] * mu)
    lower = (B.conj() @ b.T) / (1 - lam.conj()[:, None] * mu)
    return np.concatenate([(upper + lower) / 2, (upper - lower) / 2j])


def _real_basis(X: NDArray[np.complexfloating], mu: NDArray[np.complexfloating]) -> np.ndarray:
    """Orthonormal real basis of the span of columns that come in conjugate pairs."""
    columns = np.concatenate([X[:, mu.imag == 0].real, X[:, mu.imag > 0].real, X[:, mu.imag > 0].imag], axis=1)
    return np.linalg.qr(columns / np.maximum(np.linalg.norm(columns, axis=0), 1e-300)).Q
