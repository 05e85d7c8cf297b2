"""Full S4: continuous A = diag(lam) - sum_r p_r p_r*, bilinear, conjugate-closed; the stored C tied to a length l.

With the stored half expanded to both members of each pair and Dt the diagonal of steps,

    Abar = (I - Dt A / 2)^-1 (I + Dt A / 2)      Bbar = (I - Dt A / 2)^-1 Dt B      C = C~ (I - Abar^l)^-1

(l = 0: the kernel never ran and C~ is C itself). `dense` works in real coordinates; `kernel` is the formula of the
source, with the Woodbury identity at the l-th roots of unity, and shares nothing with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ssmtool.errors import UnstableError
from ssmtool.families._arrays import array_namespace, diagonal
from ssmtool.families._half_slots import feedthrough
from ssmtool.lti.systems import DenseSystem


@dataclass(frozen=True)
class Parameters:
    """Values of one layer, rows tiled to H channels.

    Attributes:
        lam: (H, N) complex128 continuous eigenvalues of the diagonal part.
        dt: (H, 1) or (H, N) float64.
        B: (H, N) complex128.   C: (K, H, N) complex128, C~ where length > 0.   P: (R, H, N) complex128.
        length: kernel length that C is tied to.
    """

    lam: np.ndarray
    dt: np.ndarray
    B: np.ndarray
    C: np.ndarray
    P: np.ndarray
    length: int


def dense(q: Parameters, D: np.ndarray, where: str) -> DenseSystem:
    """Real canonical system in the coordinates (Re x, Im x).

    Args:
        D: (rows, H) float64; kernel rows beyond it are the backward direction, without feedthrough.
        where: the layer's name, for the message.

    Returns:
        DenseSystem with H systems of 2N states, 1 input, K outputs.

    Raises:
        UnstableError: powers of A overflow before the length that C is tied to.
    """
    xp, (H, N) = array_namespace(q.lam), q.lam.shape
    left = q.P[:, :, :, None]
    own = diagonal(q.lam) - xp.sum(left * q.P.conj()[:, :, None, :], axis=0)  # x -> x
    mirrored = -xp.sum(left * q.P[:, :, None, :], axis=0)  # conj(x) -> x
    plus, minus = own + mirrored, own - mirrored
    A = xp.concat(
        [xp.concat([xp.real(plus), -xp.imag(minus)], axis=2), xp.concat([xp.imag(plus), xp.real(minus)], axis=2)],
        axis=1,
    )
    dt = xp.tile(xp.broadcast_to(q.dt, (H, N)), (1, 2))[:, :, None]
    half = dt * A / 2
    eye = diagonal(xp.ones_like(dt[0, :, 0]))
    Abar = xp.linalg.solve(eye - half, eye + half)
    Bbar = xp.linalg.solve(eye - half, dt * xp.concat([xp.real(q.B), xp.imag(q.B)], axis=1)[:, :, None])
    C = xp.permute_dims(2 * xp.concat([xp.real(q.C), -xp.imag(q.C)], axis=2), (1, 0, 2))
    if q.length:
        with np.errstate(over="ignore", invalid="ignore"):
            tied = eye - xp.linalg.matrix_power(Abar, q.length)
        if not bool(xp.all(xp.isfinite(tied))):
            raise UnstableError(f"C cannot be recovered: A^{q.length} overflows", where=where)
        C = xp.matrix_transpose(xp.linalg.solve(xp.matrix_transpose(tied), xp.matrix_transpose(C)))
    return DenseSystem(A=Abar, B=Bbar, C=C, D=feedthrough(D, q.C.shape[0]))


def kernel(q: Parameters, length: int) -> np.ndarray:
    """The convolution kernel's first `length` values, (K, H, length) float64, as the source computes it."""
    rows, tied = _closed(q.C), q.length
    if tied == 0:
        return _by_steps(q, rows, length)
    while tied < length:  # C~ of length 2l is C~ (I + Abar^l)
        rows = rows + _steps(q, rows, tied)
        tied *= 2
    return _by_resolvent(q, rows, tied)[:, :, :length]


def _closed(x: np.ndarray) -> np.ndarray:
    """Stored half -> both members of each pair, along the last axis."""
    return np.concatenate([x, x.conj()], axis=-1)


def _by_resolvent(q: Parameters, rows: np.ndarray, length: int) -> np.ndarray:
    """Inverse FFT of the generating function at the roots of unity w; with g(x, y) = x (1-w - (1+w) dt lam/2)^-1 dt y:

    g(C, B) - s g(C, P) (I + s g(P*, P))^-1 g(P*, B),   s = (1+w)/2.
    """
    w = np.exp(-2j * np.pi * np.arange(length // 2 + 1) / length)
    lam, dt = _closed(q.lam), np.tile(np.broadcast_to(q.dt, q.lam.shape), 2)
    B, P = _closed(q.B), _closed(q.P)
    middle = dt[:, :, None] / ((1 - w) - (1 + w) * (dt * lam)[:, :, None] / 2)  # (H, 2N, nodes)
    CB = np.einsum("khn,hn,hnw->hwk", rows, B, middle)[..., None]
    CP = np.einsum("khn,rhn,hnw->hwkr", rows, P, middle)
    PB = np.einsum("qhn,hn,hnw->hwq", P.conj(), B, middle)[..., None]
    PP = np.einsum("qhn,rhn,hnw->hwqr", P.conj(), P, middle)
    s = ((1 + w) / 2)[:, None, None]
    hat = CB - s * CP @ np.linalg.solve(np.eye(P.shape[0]) + s * PP, PB)
    return np.transpose(np.fft.irfft(hat[..., 0], n=length, axis=1), (2, 0, 1))


def _by_steps(q: Parameters, rows: np.ndarray, length: int) -> np.ndarray:
    """K[j] = C Abar^j Bbar, one row step per value."""
    Bbar = _closed(q.B) * np.tile(np.broadcast_to(q.dt, q.lam.shape), 2)
    values = []
    for _ in range(length):
        values.append(np.real(np.einsum("khn,hn->kh", _divided(q, rows), Bbar)))
        rows = _steps(q, rows, 1)
    return np.stack(values, axis=-1)


def _divided(q: Parameters, rows: np.ndarray) -> np.ndarray:
    """rows (I - Dt A / 2)^-1 by the Woodbury identity on the low-rank part."""
    dt, P = np.tile(np.broadcast_to(q.dt, q.lam.shape), 2), _closed(q.P)
    inverse = 1 / (1 - dt * _closed(q.lam) / 2)
    column = inverse * dt * P / 2  # (R, H, 2N)
    core = np.eye(P.shape[0]) + np.einsum("qhn,rhn->hqr", P.conj(), column)
    mixed = np.einsum("khn,rhn->hkr", rows, column)
    return rows * inverse - np.einsum("hkq,qhn->khn", mixed @ np.linalg.inv(core), P.conj() * inverse)


def _steps(q: Parameters, rows: np.ndarray, count: int) -> np.ndarray:
    """rows Abar^count, by (I - Dt A / 2)^-1 (I + Dt A / 2) = 2 (I - Dt A / 2)^-1 - I."""
    for _ in range(count):
        rows = 2 * _divided(q, rows) - rows
    return rows
