"""Residues fitted to an impulse response for poles that stay where they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ssmtool.lti.impulse import impulse_response
from ssmtool.lti.systems import DiagonalSystem

_RANKS = (1e-13, 1e-10, 1e-7)  # singular values of the problem, relative, below which directions are left out


def fit_residues(system: DiagonalSystem, h: np.ndarray) -> list[DiagonalSystem]:
    """The system with the C that brings its first L lags nearest to h.

    Minimises sum_k ||h_k - Re(C exp(k a) B) - D [k = 0]||_F^2, which is linear in C; poles, B and D stay. For one
    input and output this is the best model with these poles. Poles close to each other make residues large that cancel,
    which storage in single precision does not survive: the answers with fewer directions of the problem are smaller
    and less exact.

    Args:
        system: one diagonal system (S = 1).
        h: (p, m, L) float64.

    Returns:
        one system for each of three relative thresholds, the most exact first.
    """
    a, B = system.a[0], system.B[0]
    target = h.copy()
    target[:, :, 0] -= system.D[0]
    norm = np.linalg.norm(B, axis=1)
    used = norm > 0
    # (m L, n): what each slot adds to an output, for every input and lag.
    powers = np.exp(np.arange(h.shape[2])[:, None] * a)
    basis: NDArray[np.complexfloating] = (powers * B.T[:, None, :]).reshape(-1, len(a))
    real = np.concatenate([basis.real, -basis.imag], axis=1)
    scale = np.linalg.norm(real, axis=0)
    seen = scale > 0
    U, s, Vh = np.linalg.svd(real[:, seen] / scale[seen], full_matrices=False)
    along = U.T @ target.transpose(1, 2, 0).reshape(real.shape[0], -1)
    fitted = []
    for rank in _RANKS:
        keep = s > rank * s[:1]
        fit = np.zeros((2 * len(a), h.shape[0]))
        fit[seen] = (Vh[keep].T @ (along[keep] / s[keep, None])) / scale[seen, None]
        C = np.where(used, fit[: len(a)].T + 1j * fit[len(a) :].T, 0.0)
        fitted.append(replace(system, C=C[None]))
    return fitted


def lag_error(system: DiagonalSystem, h: np.ndarray) -> float:
    """Root of the energy of h minus the system's first L lags; S = 1."""
    return float(np.linalg.norm(h - impulse_response(system, h.shape[2])[0]))
