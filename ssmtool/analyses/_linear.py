"""Closed forms of the impulse response's energy: how much of it comes after a delay, and how late on average."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from ssmtool.lti.dense import gramian_factors
from ssmtool.lti.stability import unstable_states
from ssmtool.lti.systems import DenseSystem, DiagonalSystem, System

_ENTRIES = 2**22  # complex numbers in memory at a time
_LONGEST = 2**40  # steps; what lasts longer is called infinite

Complex = NDArray[np.complexfloating]


def eigenvalues(system: System) -> Complex:
    """(S, n) complex128 logarithms of the eigenvalues: one per slot of a diagonal system, all of a dense one."""
    if isinstance(system, DiagonalSystem):
        return system.a
    values: Complex = np.linalg.eigvals(system.A).astype(np.complex128)
    with np.errstate(divide="ignore"):
        return np.log(values)


def conjugate_closed(system: DiagonalSystem) -> tuple[Complex, Complex, Complex]:
    """Logarithms (S, N), B (S, N, m), C (S, p, N) of the real input-output system: both members of every pair."""
    if system.real:
        return system.a, system.B, system.C
    return (
        np.concatenate([system.a, system.a.conj()], axis=1),
        np.concatenate([system.B, system.B.conj()], axis=1),
        np.concatenate([system.C, system.C.conj()], axis=2) / 2,
    )


def horizon(system: System, share: float = 0.01) -> np.ndarray:
    """(S,) smallest delay K >= 0 with sum_{k >= K} ||h_k||^2 <= share * sum_k ||h_k||^2; infinite when unstable.

    The tail is sum_ij conj(l_i)^K l_j^K (C_i* C_j)(B_j B_i*) / (1 - conj(l_i) l_j) for a diagonal system and
    ||C A^K L||_F^2 with P = L L^T for a dense one.
    """
    found = np.zeros(system.systems)
    unstable = unstable_states(system) > 0
    found[unstable] = np.inf
    stable = np.flatnonzero(~unstable)
    if isinstance(system, DenseSystem):
        for s in stable.tolist():
            found[s] = _dense_horizon(system, s, share)
        return found
    for part in _parts(system, stable):
        found[part] = _diagonal_horizon(system, part, share)
    return found


def mean_delay(system: System) -> np.ndarray:
    """(S,) sum_k k ||h_k||^2 / sum_k ||h_k||^2; infinite when unstable, 0 for a system that does nothing.

    sum_k k q^k = q / (1 - q)^2 with q = conj(l_i) l_j for a diagonal system; the sum of tails, one Lyapunov equation
    more, for a dense one.
    """
    found = np.zeros(system.systems)
    unstable = unstable_states(system) > 0
    found[unstable] = np.inf
    stable = np.flatnonzero(~unstable)
    if isinstance(system, DenseSystem):
        for s in stable:
            A, C = system.A[s], system.C[s]
            L, _ = gramian_factors(A, system.B[s], C)
            P = L @ L.T
            energy = np.trace(C @ P @ C.T)
            later = scipy.linalg.solve_discrete_lyapunov(A, A @ P @ A.T)
            found[s] = np.trace(C @ later @ C.T) / energy if energy > 0 else 0.0
        return found
    for part in _parts(system, stable):
        weight, q = _pairs(system, part)
        total = weight.sum(axis=(1, 2)).real
        late = (weight * (np.exp(q) / -np.expm1(q))).sum(axis=(1, 2)).real
        found[part] = np.divide(late, total, out=np.zeros_like(late), where=total > 0)
    return found


def _parts(system: DiagonalSystem, chosen: np.ndarray) -> list[np.ndarray]:
    """Systems in pieces whose pairs fit in memory."""
    width = system.slots * (1 if system.real else 2)
    size = max(1, _ENTRIES // max(width * width, 1))
    return [chosen[i : i + size] for i in range(0, len(chosen), size)]


def _chosen(system: DiagonalSystem, part: np.ndarray) -> DiagonalSystem:
    return DiagonalSystem(system.a[part], system.B[part], system.C[part], system.D[part], system.real)


def _pairs(system: DiagonalSystem, part: np.ndarray) -> tuple[Complex, Complex]:
    """Energy (s, N, N) that pairs of modes share, and logarithm of conj(l_i) l_j."""
    a, B, C = conjugate_closed(_chosen(system, part))
    q = a.conj()[:, :, None] + a[:, None, :]
    seen = np.einsum("spi,spj->sij", C.conj(), C)
    reached = np.einsum("sjm,sim->sij", B, B.conj())
    return seen * reached / -np.expm1(q), q


def _diagonal_horizon(system: DiagonalSystem, part: np.ndarray, share: float) -> np.ndarray:
    """`horizon` of some systems: the tail falls, so the step where it crosses is between two that are known.

    ln tail is nearly a line once the slowest mode is alone; its slope gives the first guess, the line through the ends
    of the interval the next ones, and every other step halves the interval.
    """
    weight, _ = _pairs(system, part)
    a, _, _ = conjugate_closed(_chosen(system, part))
    total = weight.sum(axis=(1, 2)).real

    def excess(k: np.ndarray) -> np.ndarray:
        """ln(tail(k) / (share total)), (s,): positive before the step that is looked for."""
        z = np.exp(k[:, None] * a)
        tail = (z.conj() * (weight @ z[:, :, None])[:, :, 0]).sum(axis=1).real
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(np.maximum(tail, 0.0) / (share * total))

    low, above = np.zeros(len(part)), np.full(len(part), -np.log(share))
    high = np.clip(np.ceil(-above / (2 * a.real.max(axis=1))), 1, _LONGEST)
    below = excess(high)
    while (early := (below > 0) & (high < _LONGEST)).any():
        low, above = np.where(early, high, low), np.where(early, below, above)
        high = np.where(early, np.minimum(2 * high, _LONGEST), high)
        below = excess(high)
    halve = False
    while (open_ := (high - low > 1) & (total > 0)).any():
        with np.errstate(invalid="ignore"):
            line = low + (high - low) * above / (above - below)
        guess = np.where(np.isfinite(line) & ~halve, np.round(line), np.floor((low + high) / 2))
        middle = np.where(open_, np.clip(guess, low + 1, high - 1), high)
        value = excess(middle)
        later = value > 0
        low, above = np.where(open_ & later, middle, low), np.where(open_ & later, value, above)
        high, below = np.where(open_ & ~later, middle, high), np.where(open_ & ~later, value, below)
        halve = not halve
    return np.where(total > 0, np.where(high >= _LONGEST, np.inf, high), 0.0)


def _dense_horizon(system: DenseSystem, s: int, share: float) -> float:
    A, C = system.A[s], system.C[s]
    L, _ = gramian_factors(A, system.B[s], C)
    limit = share * np.square(C @ L).sum()
    if limit == 0 or np.square(C @ L).sum() <= limit:
        return 0.0
    powers = [A]
    while np.square(C @ powers[-1] @ L).sum() > limit:
        if len(powers) > 40:
            return np.inf
        powers.append(powers[-1] @ powers[-1])
    reached, K = C, 0
    for j in range(len(powers) - 1, -1, -1):  # the largest K whose tail is still above the limit
        trial = reached @ powers[j]
        if np.square(trial @ L).sum() > limit:
            reached, K = trial, K + 2**j
    return float(K + 1)
