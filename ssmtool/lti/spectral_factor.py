"""Spectral factors of square systems, G G~ = W~ W with W minimum-phase, for balanced stochastic truncation.

With G = D + C (zI - A)^{-1} B and its reachability Gramian P,

    R = C P C^T + D D^T,     B_W = A P C^T + B D^T,
    X = A^T X A + (C - B_W^T X A)^T (R - B_W^T X B_W)^{-1} (C - B_W^T X A),

the stabilising X being the observability Gramian of W = D_W + C_W (zI - A)^{-1} B_W, where D_W^T D_W = R - B_W^T X B_W
and C_W = D_W^{-T} (C - B_W^T X A). The Hankel singular values of the phase system are those of P and X.

Sources: Desai & Pal, IEEE TAC 29 (1984); Green, Lin. Alg. Appl. 98 (1988); for the doubling: Chu, Fan, Lin & Wang, Int.
J. Control 77 (2004).
"""

from __future__ import annotations

import numpy as np

_STEPS = 50  # doublings: zeros as close to the circle as 2^-50
_CONVERGED = 1e-14
_RESIDUAL = 1e-7  # of the Riccati equation, relative, above which there is no spectral factor to work with


def output_matrix(A: np.ndarray, B: np.ndarray, C: np.ndarray, D: np.ndarray, P: np.ndarray) -> np.ndarray | None:
    """C_W of one system; None if no spectral factor was found, as for zeros on the unit circle.

    The Riccati equation is solved by the structure-preserving doubling algorithm: quadratic convergence, slower the
    closer a zero is to the unit circle.

    Args:
        A: (n, n), B: (n, m), C: (m, n), D: (m, m) float64, textbook form, stable; R not singular.
        P: (n, n), reachability Gramian.

    Returns:
        (m, n) float64.
    """
    R = C @ P @ C.T + D @ D.T
    B_W = A @ P @ C.T + B @ D.T
    with np.errstate(all="ignore"):
        try:
            X = _doubling(A - B_W @ np.linalg.solve(R, C), B_W @ np.linalg.solve(R, B_W.T), C.T @ np.linalg.solve(R, C))
            root = np.linalg.cholesky(R - B_W.T @ X @ B_W)
        except np.linalg.LinAlgError:
            return None
        C_W = np.linalg.solve(root, C - B_W.T @ X @ A)
        residual = np.abs(A.T @ X @ A - X + C_W.T @ C_W).max(initial=0.0)
    return C_W if residual <= _RESIDUAL * np.abs(X).max(initial=0.0) else None


def _doubling(F: np.ndarray, G: np.ndarray, H: np.ndarray) -> np.ndarray:
    """X = H + F^T X (I - G X)^{-1} F: the equation's iterates at steps 1, 2, 4, … until they stay.

    Args:
        F, G, H: (n, n) float64, G and H symmetric and positive semi-definite.

    Raises:
        LinAlgError: an iterate is singular.
    """
    n = F.shape[0]
    for _ in range(_STEPS):
        step = np.linalg.solve(np.eye(n) - G @ H, np.concatenate([F, G], axis=1))
        gain, change = F @ step[:, n:] @ F.T, F.T @ H @ step[:, :n]
        F, G, H = F @ step[:, :n], G + (gain + gain.T) / 2, H + (change + change.T) / 2
        if not np.abs(change).max(initial=0.0) > _CONVERGED * np.abs(H).max(initial=0.0):
            break
    return H
