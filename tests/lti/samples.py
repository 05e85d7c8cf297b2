"""Systems that the tests of the mathematics share."""

from __future__ import annotations

import numpy as np

from ssmtool.lti.norms import to_dense
from ssmtool.lti.systems import DenseSystem, DiagonalSystem


def diagonal(a, B, C, D=None, real: bool = False) -> DiagonalSystem:
    """One system from lists: a (n,), B (n, m) or (n,), C (p, n) or (n,)."""
    a = np.asarray(a, dtype=np.complex128)
    B = np.asarray(B, dtype=np.complex128).reshape(len(a), -1)
    C = np.asarray(C, dtype=np.complex128).reshape(-1, len(a))
    D = np.zeros((C.shape[0], B.shape[1])) if D is None else np.asarray(D, dtype=np.float64)
    return DiagonalSystem(a[None], B[None], C[None], D[None], real=real)


def batch(*systems: DiagonalSystem) -> DiagonalSystem:
    """Systems of the same sizes side by side."""
    parts = [np.concatenate([getattr(system, part) for system in systems]) for part in ("a", "B", "C", "D")]
    return DiagonalSystem(*parts, real=systems[0].real)


def pick(system: DiagonalSystem, index) -> DiagonalSystem:
    """Some systems of a batch."""
    index = np.atleast_1d(index)
    return DiagonalSystem(system.a[index], system.B[index], system.C[index], system.D[index], real=system.real)


def slots(system: DiagonalSystem, index) -> DiagonalSystem:
    """Some slots of every system."""
    return DiagonalSystem(system.a[:, index], system.B[:, index], system.C[:, :, index], system.D, real=system.real)


def s4d_real(n: int, dt: float = 0.01) -> DiagonalSystem:
    """S4D-Real: lambda = -(1, …, n), zero-order hold, B = C = 1, stored as real states."""
    lam = -np.arange(1.0, n + 1)
    return diagonal(dt * lam, np.expm1(dt * lam) / lam, np.ones(n), real=True)


def s4d_lin(pairs: int, dt: float, seed: int = 0) -> DiagonalSystem:
    """S4D-Lin: lambda = -1/2 + i pi k, zero-order hold, random C."""
    return _held(-0.5 + 1j * np.pi * np.arange(pairs), dt, seed)


def s4d_inv(pairs: int, dt: float, seed: int = 0) -> DiagonalSystem:
    """S4D-Inv: lambda = -1/2 + i N/pi (N/(2k+1) - 1) with N = 2 pairs."""
    order = 2 * pairs
    return _held(-0.5 + 1j * order / np.pi * (order / (2 * np.arange(pairs) + 1) - 1), dt, seed)


def _held(lam: np.ndarray, dt: float, seed: int) -> DiagonalSystem:
    rng = np.random.default_rng(seed)
    C = rng.standard_normal(len(lam)) + 1j * rng.standard_normal(len(lam))
    return diagonal(dt * lam, np.expm1(dt * lam) / lam, 2 * C)


def ring(
    systems: int, slots: int, inputs: int = 1, outputs: int = 1, seed: int = 0, low: float = 0.5
) -> DiagonalSystem:
    """Random complex poles with moduli in (low, 0.99), as in an LRU, and a random feedthrough."""
    rng = np.random.default_rng(seed)
    shape = (systems, slots)
    a = (np.log(rng.uniform(low, 0.99, shape)) + 1j * rng.uniform(0.05, 3.0, shape)).astype(np.complex128)
    return DiagonalSystem(
        a,
        rng.standard_normal((systems, slots, inputs)) + 1j * rng.standard_normal((systems, slots, inputs)),
        rng.standard_normal((systems, outputs, slots)) + 1j * rng.standard_normal((systems, outputs, slots)),
        rng.standard_normal((systems, outputs, inputs)),
    )


def mixed(systems: int, slots: int, inputs: int = 1, outputs: int = 1, seed: int = 0) -> DiagonalSystem:
    """As `ring`, the first slot a positive and the second a negative real pole, with real B and C."""
    system = ring(systems, slots, inputs, outputs, seed)
    system.a[:, 0] = system.a[:, 0].real
    system.a[:, 1] = system.a[:, 1].real + 1j * np.pi
    system.B[:, :2] = system.B[:, :2].real
    system.C[:, :, :2] = system.C[:, :, :2].real
    return system


def real_stored(systems: int, states: int, inputs: int = 1, outputs: int = 1, seed: int = 0) -> DiagonalSystem:
    """Real poles of both signs, every slot one real state."""
    rng = np.random.default_rng(seed)
    a = np.log(rng.uniform(0.2, 0.98, (systems, states))) + 1j * np.pi * (np.arange(states) % 3 == 2)
    B = rng.standard_normal((systems, states, inputs)).astype(np.complex128)
    C = rng.standard_normal((systems, outputs, states)).astype(np.complex128)
    return DiagonalSystem(a, B, C, rng.standard_normal((systems, outputs, inputs)), real=True)


def dense(
    systems: int, order: int, inputs: int = 1, outputs: int = 1, seed: int = 0, radius: float = 0.9
) -> DenseSystem:
    """Random real systems with the given spectral radius."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((systems, order, order))
    A *= radius / np.abs(np.linalg.eigvals(A)).max(axis=1)[:, None, None]
    return DenseSystem(
        A,
        rng.standard_normal((systems, order, inputs)),
        rng.standard_normal((systems, outputs, order)),
        rng.standard_normal((systems, outputs, inputs)),
    )


def realisation(system: DiagonalSystem | DenseSystem, s: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Real A, B, C of one system, every slot as two states."""
    full = to_dense(system)
    return full.A[s], full.B[s], full.C[s]
