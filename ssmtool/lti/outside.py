"""Are the states on or outside the unit circle of two batches of systems the same, up to the rounding of storage?

Such states have no finite norm, and neither has the difference of two that are not the same: they are compared by their
poles, and by as many values of their impulse response as determine it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssmtool.lti.minimal import fold
from ssmtool.lti.systems import DiagonalSystem

_FLOOR = 1e-9  # eigenvalues of a dense system are not known better

Slots = tuple[NDArray[np.complexfloating], NDArray[np.complexfloating], NDArray[np.complexfloating]]


@dataclass(frozen=True)
class Outside:
    """The parts with |lambda| >= 1 of S pairs of systems.

    Attributes:
        poles: (S,) bool, a pole of one has none of the other beside it.
        weights: (S,) bool, the poles are the same and what they do is not.
        deviation: (S,) float64, largest difference of the impulse responses over the first N + N_r steps, relative to
            what the modes of the first add up to; 0 where neither has such states.
    """

    poles: np.ndarray
    weights: np.ndarray
    deviation: np.ndarray


def compare_outside(first: DiagonalSystem, second: DiagonalSystem, relative: float) -> Outside:
    """Compare two batches of systems of which every used slot has |lambda| >= 1.

    A system of order N and one of order N_r with the same first N + N_r values of the impulse response are the same
    system (their difference has order N + N_r). Weights and poles that are off by a share `relative` each move h_k by
    no more than sum_i ||C_i|| ||B_i|| |lambda_i|^k relative (2 + k |a_i|), to first order; both systems may be off.

    Args:
        first, second: S systems each, from `split`; slots with B = 0 or C = 0 do nothing and do not count.
        relative: what storage may change a real or imaginary part of a pole's logarithm or a weight by.
    """
    poles = np.zeros(first.systems, dtype=bool)
    weights = np.zeros(first.systems, dtype=bool)
    deviation = np.zeros(first.systems)
    for s in range(first.systems):
        one, two = _used(first, s), _used(second, s)
        if len(one[0]) + len(two[0]) == 0:
            continue
        poles[s] = _apart(one[0], two[0], relative)
        deviation[s], too_far = _response(one, two, relative)
        weights[s] = too_far and not poles[s]
    return Outside(poles, weights, deviation)


def _used(system: DiagonalSystem, s: int) -> Slots:
    """a (n,), B (n, m), C (p, n) of the slots of one system that do something."""
    used = (system.B[s] != 0).any(axis=1) & (system.C[s] != 0).any(axis=0)
    return system.a[s, used], system.B[s, used], system.C[s][:, used]


def _apart(a: NDArray[np.complexfloating], b: NDArray[np.complexfloating], relative: float) -> bool:
    """Whether a pole of one set is near none of the other; a slot stands for its mirror image, too."""
    turns = [np.abs(fold(a.imag[:, None] - sign * b.imag[None])) for sign in (1, -1)]
    near = np.minimum(*turns) <= (relative * np.abs(a.imag) + _FLOOR)[:, None]
    near &= np.abs(a.real[:, None] - b.real[None]) <= (relative * np.abs(a.real) + _FLOOR)[:, None]
    return not (near.any(axis=1).all() and near.any(axis=0).all())


def _response(one: Slots, two: Slots, relative: float) -> tuple[float, bool]:
    """Largest relative difference of two impulse responses, and whether it is more than rounding makes.

    Both are scaled by exp(-k g), g the fastest growth, so that nothing overflows.
    """
    growth = max(float(part[0].real.max(initial=0.0)) for part in (one, two))
    sizes = [np.linalg.norm(part[1], axis=1) * np.linalg.norm(part[2], axis=0) for part in (one, two)]
    largest, too_far = 0.0, False
    for k in range(2 * (len(one[0]) + len(two[0]))):
        powers = [np.exp((part[0] - growth) * k) for part in (one, two)]
        h, h_r = (((part[2] * power) @ part[1]).real for part, power in zip((one, two), powers, strict=True))
        gap = float(np.linalg.norm(h - h_r))
        shares = [size * np.abs(power) for size, power in zip(sizes, powers, strict=True)]
        scale = float(shares[0].sum()) or float(shares[1].sum())
        allowed = sum((share * (2 + k * np.abs(part[0]))).sum() for share, part in zip(shares, (one, two), strict=True))
        largest = max(largest, gap / scale)
        too_far |= bool(gap > (relative + _FLOOR) * allowed)
    return largest, too_far
