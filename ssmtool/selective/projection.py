"""Balanced projection of Mamba-2's state: the scan runs on W^T B and V^T C with r states instead of N.

Every invertible T commutes with the scalar decay of a head, so that B -> T B, C -> T^-T C changes nothing and a rank-r
projector V W^T may stand for the identity in C_t^T B_s. V = R_c Z_r S_r^-1/2 and W = R_o U_r S_r^-1/2 with
W_c = R_c R_c^T, W_o = R_o R_o^T and R_o^T R_c = U S Z^T is the square-root form of balanced truncation (Antoulas,
Approximation of Large-Scale Dynamical Systems, 7.4) on calibrated Gramians.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ssmtool.errors import ReductionError
from ssmtool.selective.mixers import Mixer, ScalarMixer
from ssmtool.selective.spectrum import require_full, root
from ssmtool.selective.statistics import Calibration

NEGLIGIBLE = 1e-10  # relative to s_1: what float64 moments of float32 states cannot tell from zero


def balanced_projectors(calibration: Calibration, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """project_b = W^T and project_c = V^T, both (G, r, N) float64; directions the data never uses are rows of zeros.

    Raises:
        CalibrationError: too few samples for the number of states.
    """
    require_full(calibration)
    left, right = [], []
    for observe, reach in zip(calibration.observability, calibration.reachability, strict=True):
        from_c, from_b = root(observe), root(reach)
        u, s, zt = np.linalg.svd(from_c.T @ from_b)
        used = s[:rank] > NEGLIGIBLE * s[0]
        scale = np.where(used, 1 / np.sqrt(np.where(used, s[:rank], 1.0)), 0.0)
        left.append((from_c @ u[:, :rank] * scale).T)
        right.append((from_b @ zt[:rank].T * scale).T)
    return np.stack(left), np.stack(right)


def projected(mixer: Mixer, calibration: Calibration, rank: int) -> ScalarMixer:
    """The mixer with balanced projectors of rank r. Raises ReductionError for Mamba-1, CalibrationError."""
    if not isinstance(mixer, ScalarMixer):
        raise ReductionError(
            "the decay of Mamba-1 differs from channel to channel, so that its states cannot be mixed",
            remedy="Use --export stock",
        )
    project_b, project_c = balanced_projectors(calibration, rank)
    return replace(mixer, project_b=project_b, project_c=project_c)
