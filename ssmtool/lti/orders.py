"""From Hankel singular values to state sizes: tails, bounds, and the order a target asks for."""

from __future__ import annotations

import numpy as np


def tail_bound(sigma: np.ndarray) -> np.ndarray:
    """A priori bound 2 * sum_{k > r} sigma_k on the H-infinity error of balanced truncation to order r.

    Source: Enns 1984, Glover 1984; docs/numerics.md (Al-Saggaf & Franklin 1987 for discrete time).

    Args:
        sigma: (S, n) Hankel singular values, descending; infinite ones (unstable states) make the bound infinite
            for every order that would drop them.

    Returns:
        (S, n + 1) float64; column r is the bound for order r, column n is 0.
    """
    tail = np.zeros((sigma.shape[0], sigma.shape[1] + 1))
    tail[:, :-1] = np.cumsum(sigma[:, ::-1], axis=1)[:, ::-1]
    return 2.0 * tail


def order_for_energy(sigma: np.ndarray, fraction: float) -> np.ndarray:
    """Smallest order r with sum_{k <= r} sigma_k >= fraction * sum sigma_k, per system.

    States with infinite sigma are kept and left out of the sum.

    Args:
        sigma: (S, n), descending.
        fraction: in (0, 1].

    Returns:
        (S,) int64; 0 for a system whose sigma are all 0.
    """
    infinite = np.isinf(sigma)
    finite = np.where(infinite, 0.0, sigma)
    tail = tail_bound(finite) / 2.0
    enough = tail <= (1.0 - fraction) * tail[:, :1] * (1 + 1e-14)
    return np.maximum(np.argmax(enough, axis=1), infinite.sum(axis=1))


def order_for_error(sigma: np.ndarray, tolerance: float) -> np.ndarray:
    """Smallest order r whose a priori bound 2 * sum_{k > r} sigma_k is at most tolerance * sigma_1, per system.

    sigma_1 is the Hankel norm, at most the H-infinity norm, so the relative H-infinity error is at most `tolerance`.
    States with infinite sigma are kept; sigma_1 is then the largest finite one.

    Args:
        sigma: (S, n), descending.
        tolerance: relative, > 0.

    Returns:
        (S,) int64; 0 for a system whose sigma are all 0.
    """
    infinite = np.isinf(sigma)
    finite = np.where(infinite, 0.0, sigma)
    enough = tail_bound(finite) <= tolerance * finite.max(axis=1, initial=0.0)[:, None]
    return np.maximum(np.argmax(enough, axis=1), infinite.sum(axis=1))
