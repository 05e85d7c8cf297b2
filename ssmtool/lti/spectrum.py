"""Hankel singular values as a result: arrays alone, so that they can be shown without loading what computes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Spectrum:
    """Hankel singular values of a batch of S systems of the same order n.

    Attributes:
        sigma: (S, n) float64, descending; infinite for each state on or outside the unit circle (these come first),
            exactly 0 for each exactly redundant state (these come last).
        redundant: (S,) int64, exactly redundant states of each system; n - redundant is its McMillan degree.
        unstable: (S,) int64, states with modulus >= 1 of each system.
    """

    sigma: np.ndarray
    redundant: np.ndarray
    unstable: np.ndarray
