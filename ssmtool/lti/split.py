"""Splits systems into their stable part and the rest, |lambda| >= 1; joins a reduced stable part and the rest again.

Hankel singular values of marginal and unstable states are infinite: no method drops them, so they are set aside while
the stable part is reduced.
"""

from __future__ import annotations

from typing import overload

import numpy as np
from numpy.typing import NDArray

from ssmtool.lti import dense
from ssmtool.lti.diagonalise import diagonalise
from ssmtool.lti.systems import DenseSystem, DiagonalSystem, System

_HARMLESS = -1.0  # logarithm of the pole that padding is given
_ROUNDING = 8 * np.finfo(np.float64).eps


@overload
def split(system: DiagonalSystem) -> tuple[DiagonalSystem, DiagonalSystem | None]: ...
@overload
def split(system: DenseSystem) -> tuple[DenseSystem, DiagonalSystem | None]: ...
@overload
def split(system: System) -> tuple[System, DiagonalSystem | None]: ...
def split(system: System) -> tuple[System, DiagonalSystem | None]:
    """The stable part of every system, and the part with poles on or outside the unit circle.

    The two sum to the original; D stays with the stable part.

    Args:
        system: S systems of order n.

    Returns:
        The stable part, of the kind and shape of `system`: states that were taken out have B = C = 0 and a harmless
        pole. The rest, D = 0, padded to the largest count with slots that have B = C = 0; None if all are stable.
    """
    return _diagonal(system) if isinstance(system, DiagonalSystem) else _dense(system)


def join(reduced: DiagonalSystem, rest: DiagonalSystem | None) -> DiagonalSystem:
    """The sum of two batches of systems: per system the used slots of `reduced`, those of `rest`, and padding last.

    A slot with B = C = 0 is padding; the others keep their order.
    """
    if rest is None:
        return reduced
    a = np.concatenate([reduced.a, rest.a], axis=1)
    B = np.concatenate([reduced.B, rest.B], axis=1)
    C = np.concatenate([reduced.C, rest.C], axis=2)
    used = (B != 0).any(axis=2) | (C != 0).any(axis=1)
    D = reduced.D + rest.D
    return _compact(DiagonalSystem(a, B, C, D, real=reduced.real and rest.real), used)


def _compact(system: DiagonalSystem, keep: np.ndarray) -> DiagonalSystem:
    """The slots marked in `keep` (S, n), in their order and first; as many slots as the widest system needs."""
    count = keep.sum(axis=1)
    width = max(1, int(count.max(initial=0)))
    place = np.argsort(~keep, axis=1, kind="stable")[:, :width]
    used = np.arange(width) < count[:, None]
    return DiagonalSystem(
        np.where(used, np.take_along_axis(system.a, place, axis=1), _HARMLESS),
        np.where(used[:, :, None], np.take_along_axis(system.B, place[:, :, None], axis=1), 0.0),
        np.where(used[:, None, :], np.take_along_axis(system.C, place[:, None, :], axis=2), 0.0),
        system.D,
        real=system.real,
    )


def _diagonal(system: DiagonalSystem) -> tuple[DiagonalSystem, DiagonalSystem | None]:
    stable = system.a.real < 0
    if stable.all():
        return system, None
    kept = DiagonalSystem(
        np.where(stable, system.a, _HARMLESS),
        np.where(stable[:, :, None], system.B, 0.0),
        np.where(stable[:, None, :], system.C, 0.0),
        system.D,
        real=system.real,
    )
    rest = DiagonalSystem(system.a, system.B, system.C, np.zeros_like(system.D), real=system.real)
    return kept, _compact(rest, ~stable)


def _dense(system: DenseSystem) -> tuple[DenseSystem, DiagonalSystem | None]:
    systems, n = system.systems, system.order
    A = np.repeat(np.exp(_HARMLESS) * np.eye(n)[None], systems, axis=0)
    B, C = np.zeros_like(system.B), np.zeros_like(system.C)
    others = []
    for s in range(systems):
        (A_s, B_s, C_s), rest = dense.decouple(system.A[s], system.B[s], system.C[s])
        k = len(A_s)
        A[s, :k, :k], B[s, :k], C[s, :, :k] = A_s, B_s, C_s
        others.append(rest)
    counts = np.array([len(rest[0]) for rest in others])
    if not counts.any():
        return system, None
    return DenseSystem(A, B, C, system.D), _poles(others, counts, np.zeros_like(system.D))


def _poles(parts: list[dense.Triple], counts: np.ndarray, D: np.ndarray) -> DiagonalSystem:
    """Pole-residue form of dense systems with |lambda| >= 1.

    `diagonalise` compares candidates on the unit circle; the poles are brought inside it by A -> A / 2^t, which is
    exact and amounts to comparing on the circle of radius 2^t.
    """
    systems, width = len(parts), int(counts.max())
    A, B = np.zeros((systems, width, width)), np.zeros((systems, width, D.shape[2]))
    C, shift = np.zeros((systems, D.shape[1], width)), np.zeros(systems)
    for s, (A_s, B_s, C_s) in enumerate(parts):
        k = len(A_s)
        if k:
            shift[s] = np.floor(np.log2(np.abs(np.linalg.eigvals(A_s)).max())) + 1
        A[s, :k, :k], B[s, :k], C[s, :, :k] = A_s / 2.0 ** shift[s], B_s, C_s
    found = diagonalise(A, B, C, D, counts)
    used = np.arange(found.system.slots) < found.slots[:, None]
    a: NDArray[np.complexfloating] = np.where(used, found.system.a + np.log(2.0) * shift[:, None], _HARMLESS)
    # A pole on the circle stays on it: the logarithm of its scaled modulus was rounded.
    a = np.where(used & (np.abs(a.real) <= _ROUNDING), 1j * a.imag, a)
    return DiagonalSystem(a, found.system.B, found.system.C, D)
