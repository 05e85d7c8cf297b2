"""Norms of single modes: each slot of a diagonal system taken alone, as the real system of one or two states it is.

A mode with rows b and c has the impulse response Re(c b lambda^k), which lives in the plane of Re b and Im b on the one
side and of Re c and Im c on the other. In orthonormal coordinates of these planes it is at most 2 x 2, whatever the
number of inputs and outputs, and its norms are the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ssmtool.lti.minimal import fold
from ssmtool.lti.norms import h2_norm
from ssmtool.lti.systems import DiagonalSystem

_ROUNDS = 16  # each narrows the bracket of a peak to a quarter, far below what rounding lets one see
_BRACKETS = 4  # a mode has a peak at its angle and at most one more at each end; one to spare


def mode_h2_norms(system: DiagonalSystem) -> np.ndarray:
    """(S, n) H2 norm of every mode: root of sum_k |Re(c b lambda^k)|_F^2."""
    alone = _alone(system)
    return h2_norm(alone).reshape(system.systems, system.slots)


def mode_peak_gains(system: DiagonalSystem) -> np.ndarray:
    """(S, n) H-infinity norm of every mode: peak over omega of the largest singular value of

        (c b / (1 - lambda e^{-i omega}) + conj(c b) / (1 - conj(lambda) e^{-i omega})) / 2.

    Found by narrowing brackets around the best of a grid that knows the pole; right to rounding, because the gain is
    flat at its peak.
    """
    alone = _alone(system)
    angle, damping = np.abs(fold(alone.a.imag)), -alone.a.real
    beside = angle + damping * np.array([0, -0.25, 0.25, -0.5, 0.5, -1, 1, -2, 2, -4, 4])
    fixed = np.concatenate([[0.0], np.logspace(-5, 0, 16) * np.pi, np.linspace(0, np.pi, 17)[1:-1]])
    omega = np.concatenate([np.clip(beside, 0, np.pi), np.broadcast_to(fixed, (len(angle), len(fixed)))], axis=1)
    omega.sort(axis=1)
    gain = _gain(alone, omega)
    best = gain.max(axis=1)
    top = np.argsort(-gain, axis=1, kind="stable")[:, :_BRACKETS]
    left = np.take_along_axis(omega, np.maximum(top - 1, 0), axis=1)
    right = np.take_along_axis(omega, np.minimum(top + 1, omega.shape[1] - 1), axis=1)
    points = np.linspace(0, 1, 9)
    for _ in range(_ROUNDS):
        fine = left[:, :, None] + (right - left)[:, :, None] * points
        values = _gain(alone, fine.reshape(len(fine), -1)).reshape(fine.shape)
        best = np.maximum(best, values.max(axis=(1, 2)))
        at = values.argmax(axis=2)[:, :, None]
        left = np.take_along_axis(fine, np.maximum(at - 1, 0), axis=2)[:, :, 0]
        right = np.take_along_axis(fine, np.minimum(at + 1, 8), axis=2)[:, :, 0]
    return best.reshape(system.systems, system.slots)


def _alone(system: DiagonalSystem) -> DiagonalSystem:
    """Every mode as a system of its own, (S n, 1, ...), with at most two inputs and outputs and D = 0."""
    B = _plane(system.B)
    C = _plane(np.swapaxes(system.C, 1, 2))
    a = system.a.reshape(-1, 1)
    B, C = B.reshape(len(a), 1, -1), C.reshape(len(a), -1, 1)
    return DiagonalSystem(a, B, C, np.zeros((len(a), C.shape[1], B.shape[2])), real=system.real)


def _plane(rows: NDArray[np.complexfloating]) -> NDArray[np.complexfloating]:
    """Coordinates (S, n, 2) of complex rows (S, n, m) in an orthonormal basis of their real and imaginary parts."""
    if rows.shape[2] <= 2:
        return rows
    r = np.linalg.qr(np.stack([rows.real, rows.imag], axis=3)).R  # (S, n, 2, 2)
    return r[..., 0] + 1j * r[..., 1]


def _gain(alone: DiagonalSystem, omega: np.ndarray) -> np.ndarray:
    """(K, F) largest singular value of each mode's frequency response at its omega (K, F)."""
    turn = 1j * omega
    plain, mirror = -0.5 / np.expm1(alone.a - turn), -0.5 / np.expm1(alone.a.conj() - turn)
    K = (alone.C * alone.B)[:, None]  # (K, 1, p, m)
    G = plain[:, :, None, None] * K + mirror[:, :, None, None] * K.conj()
    energy = (np.square(G.real) + np.square(G.imag)).sum(axis=(2, 3))
    if min(G.shape[2:]) == 1:
        return np.sqrt(energy)
    det = np.abs(G[..., 0, 0] * G[..., 1, 1] - G[..., 0, 1] * G[..., 1, 0])
    # singular values s, t of a 2 x 2 matrix: s^2 + t^2 = energy, s t = |det|
    return (np.sqrt(energy + 2 * det) + np.sqrt(np.maximum(energy - 2 * det, 0.0))) / 2
