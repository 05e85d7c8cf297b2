"""How far a diagonal system is from a finite impulse response: on its lags, beyond them, and in the H-infinity norm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ssmtool.lti.hankel_matrix import fast_length
from ssmtool.lti.kernel_residues import lag_error
from ssmtool.lti.norms import h2_norm
from ssmtool.lti.systems import DiagonalSystem

_OVERSAMPLING = 4  # frequencies per lag: between two of them the gain of L lags rises by at most a twelfth
_VANISHED = 1e-140  # what is smaller has a square that is no normal number
_CHUNK = 1 << 19  # complex numbers of one block of frequencies


@dataclass(frozen=True)
class ResponseError:
    """The difference between one system and L lags.

    Attributes:
        lags: root of the energy of the difference over the L lags.
        beyond: root of the energy of the system's response after them, where the lags are 0.
        hinf: H-infinity norm of the difference.
    """

    lags: float
    beyond: float
    hinf: float

    @property
    def h2(self) -> float:
        """H2 norm of the difference, over all time."""
        return float(np.hypot(self.lags, self.beyond))


def response_error(system: DiagonalSystem, h: np.ndarray) -> ResponseError:
    """The difference between a stable system (S = 1) and the lags h (p, m, L), zero after the last.

    The H-infinity norm is looked for on four frequencies per lag (one FFT), at the angles of poles narrower than that
    grid, and then around the largest values; what is returned is attained at a frequency, like `lti.norms.hinf_norm`.
    """
    B = system.B * np.exp(h.shape[2] * system.a)[:, :, None]
    B = np.where(np.abs(B) > _VANISHED, B, 0.0)
    late = DiagonalSystem(system.a, B, system.C, np.zeros_like(system.D))
    beyond = float(h2_norm(late)[0]) if system.slots else 0.0
    return ResponseError(lag_error(system, h), beyond, hinf_error(system, h))


def hinf_error(system: DiagonalSystem, h: np.ndarray) -> float:
    """H-infinity norm of the difference; see `response_error`."""
    size = fast_length(_OVERSAMPLING * h.shape[2])
    omega = 2 * np.pi / size * np.arange(size // 2 + 1)
    lags = np.fft.rfft(h, n=size).transpose(2, 0, 1)
    gain = _largest(lags - frequency_response(system, omega))
    step, best = omega[1] if len(omega) > 1 else np.pi, float(gain.max())
    damping, angle = -system.a[0].real, np.abs(np.angle(np.exp(1j * system.a[0].imag)))
    sharp = angle[damping < 2 * step]
    centres = np.concatenate([omega[np.argsort(-gain, kind="stable")[:3]], sharp])
    width = np.concatenate([np.full(min(3, len(omega)), step), np.minimum(damping[damping < 2 * step], step)])
    for _ in range(3):
        points = np.clip(centres[:, None] + width[:, None] * np.linspace(-1, 1, 9), 0, np.pi)
        error = _lag_response(h, points.ravel()) - frequency_response(system, points.ravel())
        found = _largest(error).reshape(points.shape)
        best = max(best, float(found.max()))
        # The three best neighbourhoods are enough from here on.
        lead = np.argsort(-found.max(axis=1), kind="stable")[:3]
        centres = points[lead, found[lead].argmax(axis=1)]
        width = width[lead] / 4
    return best


def frequency_response(system: DiagonalSystem, omega: np.ndarray) -> np.ndarray:
    """(F, p, m) complex128, G(e^{i omega}) of one diagonal system (S = 1), D included."""
    a, B, C = system.a[0], system.B[0], system.C[0]
    poles = np.exp(np.concatenate([a, a.conj()]))
    left, right = np.concatenate([C, C.conj()], axis=1) / 2, np.concatenate([B, B.conj()])
    out = np.empty((len(omega), C.shape[0], B.shape[1]), dtype=np.complex128)
    step = max(1, _CHUNK // max(1, len(poles) * C.shape[0]))
    for i in range(0, len(omega), step):
        r = 1 / (1 - np.exp(-1j * omega[i : i + step, None]) * poles)
        out[i : i + step] = (left * r[:, None, :]) @ right
    return out + system.D[0]


def _lag_response(h: np.ndarray, omega: np.ndarray) -> np.ndarray:
    """(F, p, m) sum_k h_k e^{-i omega k}, frequency by frequency."""
    p, m, length = h.shape
    flat, k = h.reshape(p * m, length).T, np.arange(length)
    out = np.empty((len(omega), p * m), dtype=np.complex128)
    step = max(1, _CHUNK // length)
    for i in range(0, len(omega), step):
        out[i : i + step] = np.exp(-1j * omega[i : i + step, None] * k) @ flat
    return out.reshape(len(omega), p, m)


def _largest(G: np.ndarray) -> np.ndarray:
    """(F,) largest singular value of (F, p, m)."""
    if min(G.shape[1:]) == 1:
        return np.linalg.norm(G, axis=(1, 2))
    return np.linalg.norm(G, ord=2, axis=(1, 2))
