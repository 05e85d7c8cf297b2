"""Realisations balanced between reachability and the phase: what balanced stochastic truncation cuts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ssmtool.lti.hankel import Balanced
from ssmtool.lti.horizon import horizon_factor
from ssmtool.lti.realisation import Matrices
from ssmtool.lti.spectral_factor import output_matrix
from ssmtool.lti.square_root import project

_NEGLIGIBLE = 1e-14  # phase values below this share of the largest cannot be told from rounding
_SINGULAR = 1e-10  # smallest gain of D + C B, relative, that is 0
_CIRCLE = 1e-8  # distance of a zero from the unit circle that is none


@dataclass(frozen=True)
class Stochastic:
    """Textbook-form realisations G = D + C (zI - A)^{-1} B whose reachability Gramian is diag(s), as is X of W.

    Attributes:
        s: (S, k) Hankel singular values of the phase system, in [0, 1] up to rounding, descending.
        A: (S, k, k), B: (S, k, m), C: (S, m, k), D: (S, m, m) float64; C is C A and D is D + C B of current-input form.
        usable: (S,) int64, leading states that are determined.
        refused: (S,) bool, systems without an invertible spectral factor; for these s, A, B, C and D are those of the
            balanced realisation in current-input form.
    """

    s: np.ndarray
    A: np.ndarray
    B: np.ndarray
    C: np.ndarray
    D: np.ndarray
    usable: np.ndarray
    refused: np.ndarray


def stochastic_balance(balanced: Balanced) -> Stochastic:
    """From balanced realisations of square systems; D + C B singular or a zero on the unit circle is refused.

    X is never formed: its factor is the observability factor of (A, C_W), see `spectral_factor`.

    Source: Desai & Pal, IEEE TAC 29 (1984); Safonov & Chiang, Int. J. Adaptive Control 2 (1988), for square roots.
    """
    A, B, C, usable = balanced.A, balanced.B, balanced.C, balanced.usable
    k = A.shape[1]
    sigma = np.zeros((len(A), k))
    width = min(k, balanced.spectrum.sigma.shape[1])
    sigma[:, :width] = balanced.spectrum.sigma[:, :width]
    sigma[np.arange(k) >= usable[:, None]] = 0.0
    C_t, D_t = C @ A, balanced.D + C @ B
    C_W, refused = np.zeros_like(C), np.zeros(len(A), dtype=bool)
    for s in np.flatnonzero(usable):
        r = usable[s]
        found = _phase_output(A[s, :r, :r], B[s, :r], C_t[s, :, :r], D_t[s], sigma[s, :r])
        refused[s] = found is None
        C_W[s, :, :r] = 0.0 if found is None else found
    system, W = (Matrices(*(torch.from_numpy(np.ascontiguousarray(x)) for x in (A, B, out))) for out in (C_t, C_W))
    L, R = torch.diag_embed(torch.from_numpy(np.sqrt(sigma))), horizon_factor(W.dual(), None)
    phase, *parts = (x.numpy() for x in project(system, L, R, k, _NEGLIGIBLE))
    plain = refused[:, None, None]
    phase = np.where(refused[:, None], sigma, phase)
    return Stochastic(
        s=phase,
        A=np.where(plain, A, parts[0]),
        B=np.where(plain, B, parts[1]),
        C=np.where(plain, C, parts[2]),
        D=np.where(plain, balanced.D, D_t),
        usable=np.minimum((phase > _NEGLIGIBLE * phase[:, :1]).sum(axis=1), usable),
        refused=refused,
    )


def _phase_output(A: np.ndarray, B: np.ndarray, C: np.ndarray, D: np.ndarray, sigma: np.ndarray) -> np.ndarray | None:
    """C_W of one system; None where D is singular, a zero is on the unit circle, or the Riccati equation fails."""
    gains = np.linalg.svd(D, compute_uv=False)
    if gains[-1] <= _SINGULAR * max(gains[0], 2 * sigma.sum()):
        return None
    zeros = np.linalg.eigvals(A - B @ np.linalg.solve(D, C))
    if (np.abs(np.abs(zeros) - 1) <= _CIRCLE).any():
        return None
    return output_matrix(A, B, C, D, np.diag(sigma))
