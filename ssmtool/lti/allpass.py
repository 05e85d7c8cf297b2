"""Optimal Hankel-norm approximation of a balanced system, by the dilation of Adamjan, Arov, Krein and Glover.

For a system in continuous time with both Gramians Sigma = diag(Sigma_1, sigma I), let Gamma = Sigma_1^2 - sigma^2 I,
M = -sigma (A_22 + A_22^T), N_B = -(sigma A_12 + Sigma_1 A_21^T) and N_C = -(sigma A_21^T + Sigma_1 A_12); these are the
products B_2 B_2^T = C_2^T C_2, B_1 B_2^T and C_1^T C_2, read off the Lyapunov equations. Then

    A^ = Gamma^-1 (sigma^2 A_11^T + Sigma_1 A_11 Sigma_1 + sigma N_C M^+ N_B^T),
    B^ = Gamma^-1 (Sigma_1 B_1 - sigma N_C M^+ B_2),
    C^ = C_1 Sigma_1 - sigma C_2 M^+ N_B^T,
    D^ = D + sigma C_2 M^+ B_2

is at most sigma away from G at every frequency. As many poles of G^ are stable as there are values above sigma; they
are the approximation, and what is unstable is replaced by a constant. This is Glover's form with U = -C_2 M^+ B_2. For
one input and output U is orthogonal; for several it is the partial isometry that does nothing where nothing needs
doing. The formulas then hold for the system with the inputs and outputs that would make U orthogonal, and being written
in A and Sigma they never ask for them. Discrete time comes and goes by s = (z - 1)/(z + 1), which keeps Gramians,
Hankel singular values and gains.

The states of G^ are scaled by |Gamma|^1/2: no entry is large then, however steep sigma falls.

Source: Glover, Int. J. Control 39 (1984), theorems 6.3, 7.2 and 9.7.
"""

from __future__ import annotations

import warnings

import numpy as np
from scipy import linalg

_EQUAL = 1e-6  # values closer than this are one: they would put a pole as close to the unit circle
_RESOLVED = 1e-7  # values of the unstable part below this share of its largest are rounding of its Gramians

Realisation = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # A, B, C, D


def cluster(sigma: np.ndarray, r: int) -> tuple[int, int]:
    """First and one past the last of the values that equal sigma[r], neighbour by neighbour; sigma (n,) descends."""
    first, last = r, r + 1
    while first and sigma[first - 1] - sigma[first] <= _EQUAL * sigma[r]:
        first -= 1
    while last < len(sigma) and sigma[last - 1] - sigma[last] <= _EQUAL * sigma[r]:
        last += 1
    return first, last


def hankel_optimal(A: np.ndarray, B: np.ndarray, C: np.ndarray, sigma: np.ndarray, r: int) -> Realisation | None:
    """The optimal Hankel-norm approximation of order r of one discrete-time system, read in textbook form.

    The Hankel norm of the error is sigma[r]. With the D that is returned its H-infinity norm is at most
    sum_{k >= r} sigma[k], with D = 0 at most twice that.

    Args:
        A: (n, n), B: (n, m), C: (p, n) balanced, with the Gramians diag(sigma), D left out.
        sigma: (n,) descending, positive.
        r: an edge of the `cluster` of sigma[r].

    Returns:
        A (r, r), B (r, m), C (p, r), D (p, m) float64 in textbook form; None where rounding has moved poles across the
        unit circle.
    """
    A, B, C, D = _to_continuous(A, B, C)
    A, B, C, step, _ = _dilate(A, B, C, sigma, *cluster(sigma, r))
    T, Z, *counts = linalg.schur(A, sort="lhp")
    if int(counts[0]) != r:
        return None
    B, C, n = Z.T @ B, C @ Z, len(T)
    # x_1 = w + X x_2 decouples the two parts.
    X = linalg.solve_sylvester(T[:r, :r], -T[r:, r:], -T[:r, r:]) if 0 < r < n else np.zeros((r, n - r))
    # The unstable part with s for -s has the same gains, and its poles on the other side.
    D = D + step + nearest_constant(-T[r:, r:], B[r:], -(C[:, r:] + C[:, :r] @ X))
    return _to_discrete(T[:r, :r], B[:r] - X @ B[r:], C[:, :r], D)


def nearest_constant(A: np.ndarray, B: np.ndarray, C: np.ndarray) -> np.ndarray:
    """A constant (p, m) at most the sum of the Hankel singular values away from C (s I - A)^-1 B at every frequency.

    One input and output: the mean of the gains at both ends of the frequency axis. Several: states are taken away one
    by one, the smallest first, each by the dilation above, which then leaves no unstable part and no need to balance
    again. The constant is what remains.

    Args:
        A: (n, n) stable, B: (n, m), C: (p, n) in continuous time.
    """
    D = np.zeros((C.shape[0], B.shape[1]))
    if not len(A):
        return D
    if D.size == 1:
        return -C @ np.linalg.solve(A, B) / 2
    with warnings.catch_warnings():
        # Poles next to the axis are warned about. Rounding there changes the constant, not the stable part.
        warnings.simplefilter("ignore", RuntimeWarning)
        L = _root(linalg.solve_continuous_lyapunov(A, -B @ B.T))
        R = _root(linalg.solve_continuous_lyapunov(A.T, -C.T @ C))
    U, sigma, Zt = np.linalg.svd(R.T @ L)
    keep = sigma > _RESOLVED * sigma[0]
    sigma = sigma[keep]
    root = 1 / np.sqrt(sigma)
    V, W = (L @ Zt.T[:, keep]) * root, (R @ U[:, keep]) * root
    A, B, C = W.T @ A @ V, W.T @ B, C @ V
    while len(sigma):
        A, B, C, step, sigma = _dilate(A, B, C, sigma, *cluster(sigma, len(sigma) - 1))
        D = D + step
    return D


def _dilate(A: np.ndarray, B: np.ndarray, C: np.ndarray, sigma: np.ndarray, first: int, last: int):
    """A^, B^, C^ with scaled states, D^ - D, and Sigma_1; states first to last have the value that goes."""
    level, cut, keep = sigma[first], np.arange(first, last), np.r_[0:first, last : len(sigma)]
    rest = sigma[keep]
    A11, A12 = A[np.ix_(keep, keep)], A[np.ix_(keep, cut)]
    A21, A22 = A[np.ix_(cut, keep)], A[np.ix_(cut, cut)]
    inverse = np.linalg.pinv(-level * (A22 + A22.T), rcond=1e-10, hermitian=True)
    reach = -(level * A12 + rest[:, None] * A21.T)
    show = -(level * A21.T + rest[:, None] * A12) @ inverse
    gamma = (rest - level) * (rest + level)
    right = 1 / np.sqrt(np.abs(gamma))
    left = (np.sign(gamma) * right)[:, None]
    inner = level**2 * A11.T + rest[:, None] * A11 * rest + level * show @ reach.T
    drive = rest[:, None] * B[keep] - level * show @ B[cut]
    seen = C[:, keep] * rest - level * C[:, cut] @ inverse @ reach.T
    return left * inner * right, left * drive, seen * right, level * C[:, cut] @ inverse @ B[cut], rest


def _root(gramian: np.ndarray) -> np.ndarray:
    """A square root of a symmetric matrix that is positive but for rounding."""
    values, vectors = np.linalg.eigh((gramian + gramian.T) / 2)
    return vectors * np.sqrt(np.maximum(values, 0.0))


def _to_continuous(A: np.ndarray, B: np.ndarray, C: np.ndarray) -> Realisation:
    eye, n = np.eye(len(A)), len(A)
    solved = np.linalg.solve(A + eye, np.concatenate([A - eye, B], axis=1))
    return solved[:, :n], 2**0.5 * solved[:, n:], 2**0.5 * np.linalg.solve((A + eye).T, C.T).T, -C @ solved[:, n:]


def _to_discrete(A: np.ndarray, B: np.ndarray, C: np.ndarray, D: np.ndarray) -> Realisation:
    eye, n = np.eye(len(A)), len(A)
    solved = np.linalg.solve(eye - A, np.concatenate([eye + A, B], axis=1))
    return solved[:, :n], 2**0.5 * solved[:, n:], 2**0.5 * np.linalg.solve((eye - A).T, C.T).T, D + C @ solved[:, n:]
