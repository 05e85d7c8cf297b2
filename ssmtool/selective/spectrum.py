"""Calibrated Hankel singular values of a selective layer: s = svd(W_o^1/2 W_c^1/2), per group."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ssmtool.errors import CalibrationError
from ssmtool.selective.mixers import DiagonalMixer, Mixer
from ssmtool.selective.statistics import Calibration


@dataclass(frozen=True)
class CalibratedSpectrum:
    """What a selective layer's state is used for on the calibration tokens.

    Attributes:
        values: (G, N) calibrated Hankel singular values, descending, per group.
        errors: (N + 1,) predicted relative error of the layer's weighted scan output when r states are kept,
            sqrt(sum_{i > r} s_i^2 / sum s_i^2) with all groups together, for r = 0 ... N.
        entropy_size: exp of the entropy of s_i^2 / sum s^2, mean over groups: states that carry the output.
        static: (G, N) the same from weights alone, for inputs of unit covariance; see `static_values`.
    """

    values: np.ndarray
    errors: np.ndarray
    entropy_size: float
    static: np.ndarray

    def size(self, tolerance: float) -> int:
        """The least r whose predicted error is at most `tolerance`."""
        return int(np.argmax(self.errors <= tolerance))

    def share(self, share: float) -> int:
        """The least r that keeps a share of the sum of the values, in every group."""
        total = self.values.sum(1, keepdims=True)
        kept = np.cumsum(self.values, axis=1) >= share * total * (1 - 1e-12)
        return int(kept.argmax(1).max()) + 1


def calibrated_spectrum(mixer: Mixer, calibration: Calibration) -> CalibratedSpectrum:
    """Values, predicted errors and effective sizes of a mixer.

    Raises:
        CalibrationError: fewer independent samples than states, so that a Gramian is singular for want of data.
    """
    require_full(calibration)
    values = np.stack(
        [
            np.linalg.svd(root(observe).T @ root(reach), compute_uv=False)
            for observe, reach in zip(calibration.observability, calibration.reachability, strict=True)
        ]
    )
    energy = np.square(values).sum(0)
    tails = np.concatenate([np.cumsum(energy[::-1])[::-1], [0.0]])
    errors = np.sqrt(tails / tails[0]) if tails[0] > 0 else np.zeros_like(tails)
    return CalibratedSpectrum(values, errors, entropy_size(values), static_values(mixer))


def static_values(mixer: Mixer) -> np.ndarray:
    """(G, N) values of a mixer from its weights alone, descending.

    svd((S_C S_C^T)^1/2 (S_B S_B^T)^1/2), the singular values of S_C^T S_B, where S_B and S_C are the linear maps to B
    and C: rows of x_proj for Mamba-1; for Mamba-2 rows of in_proj times the sum of the convolution's taps, SiLU left
    out. They know nothing of decay, step size and data.
    """
    if isinstance(mixer, DiagonalMixer):
        maps = [(np.asarray(b), np.asarray(c)) for b, c in zip(mixer.x_b, mixer.x_c, strict=True)]
    else:
        inner, wide = mixer.channels, mixer.in_b.shape[0]
        taps = np.ones(inner + 2 * wide) if mixer.conv is None else np.asarray(mixer.conv).sum(-1)
        rows_b = np.asarray(mixer.in_b) * taps[inner : inner + wide, None]
        rows_c = np.asarray(mixer.in_c) * taps[inner + wide :, None]
        maps = list(zip(np.split(rows_b, mixer.groups), np.split(rows_c, mixer.groups), strict=True))
        if mixer.project_b is not None:
            pairs = zip(maps, np.asarray(mixer.project_b), np.asarray(mixer.project_c), strict=True)
            maps = [(to_b @ b, to_c @ c) for (b, c), to_b, to_c in pairs]
    return np.stack([np.linalg.svd(root(c @ c.T).T @ root(b @ b.T), compute_uv=False) for b, c in maps])


def entropy_size(values: np.ndarray) -> float:
    """exp(-sum p log p) with p = s^2 / sum s^2 over the last axis; the mean over all others."""
    energy = np.square(values)
    total = energy.sum(-1, keepdims=True)
    p = np.divide(energy, total, out=np.zeros_like(energy), where=total > 0)
    return float(np.exp(-np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=-1)).mean())


def root(gramian: np.ndarray) -> np.ndarray:
    """R (N, N) with R R^T = gramian, symmetric positive semi-definite up to rounding."""
    weights, vectors = np.linalg.eigh((gramian + gramian.T) / 2)
    return vectors * np.sqrt(np.clip(weights, 0.0, None))


def require_full(calibration: Calibration) -> None:
    """Raise if a Gramian cannot have full rank because too few states were measured."""
    states = calibration.observability.shape[-1]
    if calibration.samples < 2 * states:
        needed = -(-2 * states * calibration.tokens // max(calibration.samples, 1))
        raise CalibrationError(
            f"{calibration.tokens} calibration tokens leave the Gramians of {states} states singular",
            remedy=f"At least {needed} tokens are needed, some thousands are better",
        )
