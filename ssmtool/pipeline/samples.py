"""A few poles and a few responses of a layer: enough for a picture, whatever the size of the layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssmtool.analyses._linear import eigenvalues, horizon
from ssmtool.errors import UsageError
from ssmtool.lti.minimal import fold
from ssmtool.lti.norms import difference
from ssmtool.lti.responses import gains, impulse_sizes, take
from ssmtool.lti.systems import DiagonalSystem, System, without_feedthrough

POLES = 400  # of a layer, at most
LAGS = (32, 512)  # shortest and longest impulse response
_LOWEST = 1e-3  # share of pi where frequencies begin


@dataclass(frozen=True)
class Poles:
    """Eigenvalues of some systems.

    Attributes:
        values: (K,) complex128, one of each conjugate pair, the one in the upper half plane.
        systems: how many systems they are from.
        total: how many the layer stores in all systems.
    """

    values: NDArray[np.complexfloating]
    systems: int
    total: int


@dataclass(frozen=True)
class Responses:
    """Impulse and frequency responses of some systems, D left out.

    Attributes:
        systems: their indices.
        single: whether they have one input and one output, so that `impulse` has a sign.
        norm: (K,) sigma_1 of each.
        impulse: (K, L).  omega: (F,) radians per step.  gain: (K, F).
        reduced_impulse, reduced_gain: the same of the reduced model; None without one.
        error_gain: (K, F) gain of the difference.
    """

    systems: tuple[int, ...]
    single: bool
    norm: np.ndarray
    impulse: np.ndarray
    omega: np.ndarray
    gain: np.ndarray
    reduced_impulse: np.ndarray | None = None
    reduced_gain: np.ndarray | None = None
    error_gain: np.ndarray | None = None


def sample_poles(system: System, limit: int = POLES) -> Poles:
    """Poles of systems at equal distances, at most `limit` of them."""
    stored = system.slots if isinstance(system, DiagonalSystem) else system.order
    count = min(system.systems, max(1, limit // max(stored, 1)))
    chosen = np.linspace(0, system.systems - 1, count).round().astype(int)
    logs = eigenvalues(take(system, chosen))
    if logs.shape[1] > limit:
        logs = logs[:, np.linspace(0, logs.shape[1] - 1, limit).round().astype(int)]
    values: NDArray[np.complexfloating] = np.exp(logs).ravel()
    if not isinstance(system, DiagonalSystem):
        values = values[values.imag >= 0]
    return Poles(values.real + 1j * np.abs(values.imag), count, stored * system.systems)


def representative(norm: np.ndarray) -> np.ndarray:
    """Indices of the systems with the largest, the median and the smallest norm, each once."""
    order = np.argsort(-norm, kind="stable")
    places = (0, (len(order) - 1) // 2, len(order) - 1)
    return np.array(list(dict.fromkeys(int(order[place]) for place in places)))


def sample_responses(
    system: System, norm: np.ndarray, reduced: System | None = None, systems: Sequence[int] | None = None
) -> Responses:
    """Responses of representative systems, and of the same systems of a reduced model.

    Args:
        system: S systems.
        norm: (S,) Hankel norms, which say which systems are representative.
        reduced: S systems with the same inputs and outputs, or None.
        systems: indices to take instead.

    Raises:
        UsageError: no such system.
    """
    for index in systems or ():
        if not 0 <= index < system.systems:
            raise UsageError(f"there is no system {index}: the layer has {system.systems}, counted from 0")
    chosen = representative(norm) if not systems else np.array(list(dict.fromkeys(systems)))
    some = without_feedthrough(take(system, chosen))
    last = float(horizon(some).max())
    length = int(np.clip(last + 1 if np.isfinite(last) else LAGS[1], *LAGS))
    omega = frequencies(some)
    found = Responses(
        tuple(int(s) for s in chosen),
        system.inputs == system.outputs == 1,
        norm[chosen],
        impulse_sizes(some, length),
        omega,
        gains(some, omega),
    )
    if reduced is None:
        return found
    other = without_feedthrough(take(reduced, chosen))
    return Responses(
        found.systems,
        found.single,
        found.norm,
        found.impulse,
        omega,
        found.gain,
        impulse_sizes(other, length),
        gains(other, omega),
        gains(difference(some, other), omega),
    )


def frequencies(system: System, count: int = 80, at_poles: int = 60) -> np.ndarray:
    """(F,) radians per step: evenly and logarithmically spaced ones, and the angles of poles, where gains peak."""
    angles = np.abs(fold(eigenvalues(system).imag)).ravel()
    angles = np.unique(angles[(angles > _LOWEST * np.pi) & (angles < np.pi)])
    if len(angles) > at_poles:
        angles = angles[np.linspace(0, len(angles) - 1, at_poles).round().astype(int)]
    fixed = [np.geomspace(_LOWEST, 1, count) * np.pi, np.linspace(_LOWEST, 1, count) * np.pi]
    return np.unique(np.concatenate([*fixed, angles]))
