"""Impulse and frequency responses reduced to one number per step or frequency, for pictures of systems of any size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ssmtool.lti.systems import DenseSystem, DiagonalSystem, System

_CHUNK = 1 << 22  # complex numbers in memory at a time


def take(system: System, indices: NDArray[np.integer]) -> System:
    """The systems of a batch with these indices, in this order."""
    if isinstance(system, DiagonalSystem):
        return replace(system, a=system.a[indices], B=system.B[indices], C=system.C[indices], D=system.D[indices])
    return DenseSystem(system.A[indices], system.B[indices], system.C[indices], system.D[indices])


def impulse_sizes(system: System, length: int) -> NDArray[np.float64]:
    """h_k of systems with one input and one output, with its sign, else ||h_k||_F; D left out.

    Args:
        system: S systems.
        length: k = 0 ... length - 1.

    Returns:
        (S, length) float64.
    """
    single = system.inputs == system.outputs == 1
    out = np.zeros((system.systems, length))
    k = np.arange(length)
    for s in range(system.systems):
        if isinstance(system, DenseSystem):
            x = system.B[s]
            for i in k:
                h = system.C[s] @ x
                out[s, i] = h[0, 0] if single else np.linalg.norm(h)
                x = system.A[s] @ x
            continue
        a, B, C = _closed(system, s)
        if single:
            out[s] = ((C[0] * B[:, 0]) @ np.exp(a[:, None] * k)).real
            continue
        C, B = _narrow(C, B)
        for part in _pieces(length, len(a) * (C.shape[0] + B.shape[1])):
            h = (C * np.exp(k[part, None, None] * a)) @ B
            out[s, part] = np.linalg.norm(h, axis=(1, 2))
    return out


def gains(system: System, omega: NDArray[np.float64]) -> NDArray[np.float64]:
    """||G(e^{i omega})||_2, the largest singular value of the frequency response; D left out.

    Args:
        system: S systems.
        omega: (F,) radians per step.

    Returns:
        (S, F) float64; infinite at a pole on the unit circle.
    """
    out = np.zeros((system.systems, len(omega)))
    turn = np.exp(-1j * omega)
    with np.errstate(divide="ignore", invalid="ignore"):
        for s in range(system.systems):
            if isinstance(system, DenseSystem):
                eye = np.eye(system.order)
                G = system.C[s] @ np.linalg.solve(eye - turn[:, None, None] * system.A[s], system.B[s][None])
                out[s] = _norm(G)
                continue
            a, B, C = _closed(system, s)
            if system.inputs > 1 or system.outputs > 1:
                C, B = _narrow(C, B)
            for part in _pieces(len(omega), len(a) * (C.shape[0] + B.shape[1])):
                # 1 - l e^{-iw} = -expm1(a - iw): no cancellation for slow modes at low frequencies.
                resolvent = -1 / np.expm1(a - 1j * omega[part, None])
                out[s, part] = _norm((C * resolvent[:, None, :]) @ B)
    return np.where(np.isnan(out), np.inf, out)


def _closed(system: DiagonalSystem, s: int) -> tuple[NDArray, NDArray, NDArray]:
    """Logarithms (N,), B (N, m) and C (p, N) of one real input-output system: both members of every pair."""
    a, B, C = system.a[s], system.B[s], system.C[s]
    return np.concatenate([a, a.conj()]), np.concatenate([B, B.conj()]), np.concatenate([C, C.conj()], axis=1) / 2


def _narrow(C: NDArray, B: NDArray) -> tuple[NDArray, NDArray]:
    """C and B with at most N outputs and inputs: orthonormal factors change neither norm."""
    if C.shape[0] > C.shape[1]:
        C = np.asarray(np.linalg.qr(C, mode="r"))
    if B.shape[1] > B.shape[0]:
        B = np.asarray(np.linalg.qr(B.conj().T, mode="r")).conj().T
    return C, B


def _pieces(length: int, width: int) -> list[slice]:
    step = max(1, _CHUNK // max(1, width))
    return [slice(i, i + step) for i in range(0, length, step)]


def _norm(G: NDArray) -> NDArray[np.float64]:
    """(F,) largest singular value of (F, p, m); infinite where an entry is."""
    if min(G.shape[1:]) == 1:
        return np.linalg.norm(G, axis=(1, 2))
    finite = np.isfinite(G).all(axis=(1, 2))
    out = np.full(len(G), np.inf)
    out[finite] = np.linalg.norm(G[finite], ord=2, axis=(1, 2))
    return out
