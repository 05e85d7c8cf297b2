"""Applying convolution kernels to a sequence, one- or two-sided, as the single-input layers do."""

from __future__ import annotations

import numpy as np


def convolve(kernel: np.ndarray, u: np.ndarray, D: np.ndarray) -> np.ndarray:
    """y[t] = sum_j k[j] u[t-j] + D u[t]; with twice as many kernel rows as rows of D, two-sided.

    The second half of the kernel rows is then the backward direction: its entry j acts on u[t+1+j] (the S4 and DSS
    code places the flipped kernel one step off, so the present input is seen by the forward direction only).

    Args:
        kernel: (K, H, L) float64.
        u: (L, H) float64.
        D: (c, H) float64; K = c or 2c.

    Returns:
        (L, c*H) float64, column c'*H + h.
    """
    length = u.shape[0]
    rows = D.shape[0]
    y = u[:, None, :] * D  # (L, c, H)
    for j in range(length):
        y[j:] += kernel[:rows, :, j] * u[: length - j, None, :]
        if kernel.shape[0] > rows:
            y[: length - 1 - j] += kernel[rows:, :, j] * u[j + 1 :, None, :]
    return y.reshape(length, -1)
