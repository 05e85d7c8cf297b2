"""The selective families' own formulas, one time step after the other in numpy, as their papers write them."""

from __future__ import annotations

import numpy as np


def silu(x: np.ndarray) -> np.ndarray:
    """x sigmoid(x), without overflow."""
    return x * 0.5 * (1 + np.tanh(x / 2))


def softplus(x: np.ndarray) -> np.ndarray:
    """log(1 + exp(x)), without overflow."""
    return np.logaddexp(0, x)


def rms_norm(x: np.ndarray, weight: np.ndarray | float, eps: float) -> np.ndarray:
    """x over its root mean square along the last axis, times weight."""
    return weight * x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)


def causal_convolution(x: np.ndarray, filters: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """(b, L, E) filtered per channel by (E, 1, K), the newest tap last, zeros before the start."""
    taps = filters.shape[-1]
    padded = np.pad(x, ((0, 0), (taps - 1, 0), (0, 0)))
    y = np.zeros_like(x) if bias is None else np.zeros_like(x) + bias
    for k in range(taps):
        y += padded[:, k : k + x.shape[1]] * filters[:, 0, k]
    return y


def diagonal_scan(
    x: np.ndarray, dt: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray
) -> np.ndarray:
    """h = exp(dt a) h + dt b x, y = c h + d x.

    Args:
        x, dt: (batch, L, E).  a: (E, N) negative.  b, c: (batch, L, N).  d: (E,).

    Returns:
        y (batch, L, E).
    """
    h = np.zeros((x.shape[0], *a.shape))
    y = np.empty_like(x)
    for t in range(x.shape[1]):
        step = dt[:, t, :, None]
        h = np.exp(step * a) * h + step * x[:, t, :, None] * b[:, t, None, :]
        y[:, t] = np.einsum("ben,bn->be", h, c[:, t]) + d * x[:, t]
    return y


def head_scan(x: np.ndarray, dt: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    """h = exp(dt a) h + dt x b^T, y = h c + d x, one scalar a per head.

    Args:
        x: (batch, L, H, P).  dt: (batch, L, H).  a: (H,) negative.  b, c: (batch, L, G, N), head j reads group
            j // (H / G).  d: (H, P) or (H, 1).

    Returns:
        y (batch, L, H, P).
    """
    batch, length, heads, width = x.shape
    b, c = (np.repeat(part, heads // part.shape[2], axis=2) for part in (b, c))
    h = np.zeros((batch, heads, width, b.shape[-1]))
    y = np.empty_like(x)
    for t in range(length):
        step = dt[:, t]
        h = np.exp(step * a)[:, :, None, None] * h + np.einsum("bh,bhp,bhn->bhpn", step, x[:, t], b[:, t])
        y[:, t] = np.einsum("bhpn,bhn->bhp", h, c[:, t]) + d * x[:, t]
    return y
