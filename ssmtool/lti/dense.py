"""Gramian factors of dense systems: the discrete-time square-root (Hammarling) method on the Schur form."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

_CLOSEST = 2.0**-53  # a stable pole's distance from the unit circle; rounding of the Schur form must not make it less


def gramian_factors(A: np.ndarray, B: np.ndarray, C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Real factors L, R with P = L L^T and Q = R R^T of one stable dense system.

    Source: Hammarling, IMA J. Numer. Anal. 2 (1982) and Systems & Control Letters 17 (1991) for discrete time; the
    column recursion here is the Potapov step of docs/numerics.md applied to a triangular A.

    Args:
        A: (n, n) float64, spectral radius < 1.  B: (n, m).  C: (p, n).

    Returns:
        L (n, n), R (n, n) float64.
    """
    T, Z, *_ = linalg.schur(A, output="complex")
    L = Z @ _triangular_factor(T, Z.conj().T @ B)
    # The observability Gramian is that of (A*, C*); reversing the order makes T* upper triangular again.
    R = Z @ _triangular_factor(T.conj().T[::-1, ::-1], (Z.conj().T @ C.T)[::-1])[::-1]
    return _real(L), _real(R)


def _triangular_factor(T: np.ndarray, B: np.ndarray) -> np.ndarray:
    """U with P = U U*, P = T P T* + B B*, T upper triangular; the last state is split off again and again."""
    n = T.shape[0]
    U = np.zeros((n, n), dtype=np.complex128)
    B = B.astype(np.complex128)
    for k in range(n - 1, -1, -1):
        tau, b = T[k, k], B[k]
        size = np.linalg.norm(b)
        w = b / size if size > 0 else np.eye(1, B.shape[1], dtype=np.complex128)[0]
        s = np.sqrt(max(1 - abs(tau), _CLOSEST) * (1 + abs(tau)))
        root = size / s
        U[k, k] = root
        if k == 0:
            break
        seen = B[:k] @ w.conj()
        rhs = T[:k, k] * (np.conj(tau) * root) + seen * s
        u = linalg.solve_triangular(np.eye(k) - np.conj(tau) * T[:k, :k], rhs)
        U[:k, k] = u
        v = T[:k, :k] @ u + T[:k, k] * root
        B = B[:k] + np.outer(s * v - (1 + tau) * seen, w)
    return U


def _real(factor: NDArray[np.complexfloating]) -> np.ndarray:
    """A real square factor of the same (real) Gramian."""
    r = np.linalg.qr(np.concatenate([factor.real, factor.imag], axis=1).T).R
    return np.ascontiguousarray(r.T)


def stable_part(A: np.ndarray, B: np.ndarray, C: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """The part of one dense system with poles inside the unit circle, decoupled from the rest, and the rest's order."""
    stable, rest = decouple(A, B, C)
    return *stable, rest[0].shape[0]


Triple = tuple[np.ndarray, np.ndarray, np.ndarray]


def decouple(A: np.ndarray, B: np.ndarray, C: np.ndarray) -> tuple[Triple, Triple]:
    """Two triples (A, B, C) whose sum is the given one: poles inside the unit circle, and the others.

    The ordered Schur form T = [[T1, T12], [0, T2]] becomes block diagonal by X with T1 X - X T2 + T12 = 0.
    """
    # "iuc" would count eigenvalues on the circle as inside; the callable's arguments differ between SciPy versions.
    T, Z, *inside = linalg.schur(A, output="real", sort=lambda re, im=0.0: abs(complex(re) + 1j * im) < 1)
    k = int(inside[0])
    if k == A.shape[0]:
        return (A, B, C), (A[:0, :0], B[:0], C[:, :0])
    Zb, Zc = Z.T @ B, C @ Z
    X = linalg.solve_sylvester(T[:k, :k], -T[k:, k:], -T[:k, k:]) if k else T[:0, :]
    return (T[:k, :k], Zb[:k] - X @ Zb[k:], Zc[:, :k]), (T[k:, k:], Zb[k:], Zc[:, k:] + Zc[:, :k] @ X)
