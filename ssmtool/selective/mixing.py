"""Dropping states of Mamba-1 while the rest is read anew: y = sum_i h_i (M C)_i with M (r, N) by least squares.

C_t is a linear map of the input, so M is absorbed into its weights exactly. With K[(c, i), (k, j)] = E[C_c C_k sum_e
w_e h_ei h_ej] and m = vec(M^T) over the pairs (c, i) with i kept, the error of the weighted output is the quadratic
form (vec(I) - m)^T K (vec(I) - m), so that M solves the normal equations K_II m = (K vec(I))_I.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

RIDGE = 1e-12  # relative to the mean of K's diagonal: moments of directions the data never shows are singular


@dataclass(frozen=True)
class Mixing:
    """States of one group to keep.

    Attributes:
        kept: (r,) ascending indices.
        mix: (r, N): the new rows of C are mix @ C.
        loss: weighted squared output error.
    """

    kept: np.ndarray
    mix: np.ndarray
    loss: float


def mix_for(coupling: np.ndarray, kept: np.ndarray) -> Mixing:
    """The best mixing for given states. Args: coupling (N, N, N, N) at [c, i, k, j]; kept (r,)."""
    states = coupling.shape[0]
    flat = coupling.reshape(states**2, states**2)
    identity = np.eye(states).ravel()
    right = flat @ identity
    pairs = (np.arange(states)[:, None] * states + kept).ravel()
    block = flat[np.ix_(pairs, pairs)]
    damped = block + RIDGE * max(block.trace() / len(block), 1e-300) * np.eye(len(block))
    m = scipy.linalg.solve(damped, right[pairs], assume_a="pos")
    missing = identity.copy()
    missing[pairs] -= m
    return Mixing(np.asarray(kept), m.reshape(states, len(kept)).T, float(missing @ flat @ missing))


def eliminate_mixed(coupling: np.ndarray, rank: int) -> Mixing:
    """Backward elimination: drop, one at a time, the state without which the best mixing loses least."""
    kept = np.arange(coupling.shape[0])
    best = mix_for(coupling, kept)
    while len(kept) > rank:
        tried = [mix_for(coupling, np.delete(kept, k)) for k in range(len(kept))]
        best = min(tried, key=lambda mixing: mixing.loss)
        kept = best.kept
    return best
