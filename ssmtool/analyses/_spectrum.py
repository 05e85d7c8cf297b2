"""The interaction matrix S_C^T S_B of a selective layer: its eigenvalues and its inertia from N x N matrices.

M = S_C^T S_B is E x E of rank at most N. Its non-zero eigenvalues are those of S_B S_C^T (N x N). Its symmetric part is
K^T J K with K = [S_C; S_B] / sqrt(2) and J = [[0, I], [I, 0]]; with K^T = Q R it is Q (R J R^T) Q^T, so that the
non-zero eigenvalues of the symmetric part are those of the 2N x 2N matrix R J R^T.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssmtool.selective.mixers import DiagonalMixer, Mixer

Complex = NDArray[np.complexfloating]

_ZERO = 1e-12  # relative to the largest modulus


@dataclass(frozen=True)
class Interaction:
    """Spectrum of S_C^T S_B, all groups together.

    Attributes:
        negative, positive, zero: eigenvalues by the sign of their real part, of the N per group that can be non-zero.
        least, most: extreme real parts.
        inertia: eigenvalues of the symmetric part, (positive, negative), at most N per group each.
        symmetric_least, symmetric_most: its extreme eigenvalues.
        eigenvalues: (real, imaginary) parts of the eigenvalues, by falling modulus.
    """

    negative: int
    positive: int
    zero: int
    least: float
    most: float
    inertia: tuple[int, int]
    symmetric_least: float
    symmetric_most: float
    eigenvalues: tuple[tuple[float, float], ...]


def maps(mixer: Mixer) -> list[tuple[np.ndarray, np.ndarray]]:
    """S_B and S_C per group, (N, width) each, from the weights.

    Mamba-1: rows of x_proj, times the weights of the norms on B and C where there are such (their positive scale per
    token changes no sign). Mamba-2 has no linear S_B and S_C; these are linearised: rows of in_proj times the sum of
    the convolution's taps, SiLU left out, and the project's own projection where the layer was reduced by one.
    """
    if isinstance(mixer, DiagonalMixer):
        b_norm, c_norm = (1.0 if n is None else np.asarray(n)[:, None] for n in (mixer.b_norm, mixer.c_norm))
        return [(b_norm * np.asarray(b), c_norm * np.asarray(c)) for b, c in zip(mixer.x_b, mixer.x_c, strict=True)]
    wide = mixer.in_b.shape[0]
    taps = np.ones(mixer.channels + 2 * wide) if mixer.conv is None else np.asarray(mixer.conv).sum(-1)
    rows_b = np.asarray(mixer.in_b) * taps[mixer.channels : mixer.channels + wide, None]
    rows_c = np.asarray(mixer.in_c) * taps[mixer.channels + wide :, None]
    found = list(zip(np.split(rows_b, mixer.groups), np.split(rows_c, mixer.groups), strict=True))
    if mixer.project_b is not None:
        projections = zip(mixer.project_b, mixer.project_c, strict=True)
        found = [(np.asarray(p) @ b, np.asarray(q) @ c) for (b, c), (p, q) in zip(found, projections, strict=True)]
    return found


def interaction(pairs: list[tuple[np.ndarray, np.ndarray]]) -> Interaction:
    """Spectrum of S_C^T S_B of every group; pairs of S_B and S_C, (N, width) each."""
    values: Complex = np.concatenate([np.linalg.eigvals(b @ c.T) for b, c in pairs])
    symmetric = np.concatenate([_symmetric(b, c) for b, c in pairs])
    return _summary(values, symmetric)


def of_moment(moments: np.ndarray) -> Interaction:
    """The same for E[C_t B_t^T] (G, N, N), which is S_C E[u u^T] S_B^T where B and C are linear in u."""
    values: Complex = np.concatenate([np.linalg.eigvals(m) for m in moments])
    symmetric = np.concatenate([np.linalg.eigvalsh((m + m.T) / 2) for m in moments])
    return _summary(values, symmetric)


def _symmetric(b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Eigenvalues of the symmetric part of c^T b that can be non-zero."""
    n = b.shape[0]
    _, r = np.linalg.qr(np.concatenate([c, b]).T / np.sqrt(2))  # (min(width, 2N), 2N)
    cross = r[:, :n] @ r[:, n:].T
    return np.linalg.eigvalsh(cross + cross.T)


def _summary(values: Complex, symmetric: np.ndarray) -> Interaction:
    floor = _ZERO * np.abs(values).max(initial=0.0)
    level = _ZERO * np.abs(symmetric).max(initial=0.0)
    order = np.argsort(-np.abs(values), kind="stable")
    return Interaction(
        negative=int((values.real < -floor).sum()),
        positive=int((values.real > floor).sum()),
        zero=int((np.abs(values.real) <= floor).sum()),
        least=float(values.real.min()),
        most=float(values.real.max()),
        inertia=(int((symmetric > level).sum()), int((symmetric < -level).sum())),
        symmetric_least=float(symmetric.min()),
        symmetric_most=float(symmetric.max()),
        eigenvalues=tuple((float(v.real), float(v.imag)) for v in values[order]),
    )
