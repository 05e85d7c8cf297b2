"""A layer of two models without the states that both keep: what can be compared where states are not stable."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from ssmtool.lti.norms import difference, hinf_norm
from ssmtool.lti.outside import Outside, compare_outside
from ssmtool.lti.split import split
from ssmtool.lti.systems import DiagonalSystem, System


@dataclass(frozen=True)
class StableParts:
    """Two versions of a layer; `compress` reduces stable parts and keeps the rest, so errors are about stable parts.

    Attributes:
        first, second: stable parts, of the shapes of the whole.
        unstable: (S,) states on or outside the unit circle of the first, and of the second, as stored.
        deviation: largest relative deviation of the impulse responses of those states over as many steps as determine
            them; None where neither has any.
        apart: (S,) bool, where those states are not the same in both: the whole difference then has no finite norm.
        reason: the first system where they are not, in words; "" if there is none.
    """

    first: System
    second: System
    unstable: tuple[np.ndarray, np.ndarray]
    deviation: float | None
    apart: np.ndarray
    reason: str

    def hinf_error(self, device: str) -> np.ndarray:
        """(S,) H-infinity norm of the difference of the stable parts, 0 where they are the same numbers."""
        if _identical(self.first, self.second):
            return np.zeros(self.first.systems)
        return hinf_norm(difference(self.first, self.second), device)


def stable_parts(first: System, second: System, rounding: float, *, same_weights: bool = True) -> StableParts:
    """Set the states on or outside the unit circle aside in both, and compare them.

    Args:
        first, second: the layer before and after, S systems each.
        rounding: what storage may change a number by, as a share of it.
        same_weights: whether their weights have to be the same; after a refinement only their poles are.
    """
    (stable, rest), (stable_second, rest_second) = split(first), split(second)
    counts = states_of(rest, first.systems), states_of(rest_second, first.systems)
    apart = np.zeros(first.systems, dtype=bool)
    if not (counts[0].any() or counts[1].any()):
        return StableParts(stable, stable_second, counts, None, apart, "")
    if _identical(first, second):
        return StableParts(stable, stable_second, counts, 0.0, apart, "")
    found = compare_outside(_present(rest, rest_second), _present(rest_second, rest), rounding)
    apart = found.poles | (found.weights & same_weights)
    reason = _reason(found, apart, counts) if apart.any() else ""
    return StableParts(stable, stable_second, counts, float(found.deviation.max()), apart, reason)


def states_of(rest: DiagonalSystem | None, systems: int) -> np.ndarray:
    """(S,) states of what `split` set aside."""
    if rest is None:
        return np.zeros(systems, dtype=np.int64)
    used = (rest.B != 0).any(axis=2) & (rest.C != 0).any(axis=1)
    return used.sum(axis=1) * (1 if rest.real else 2)


def _present(rest: DiagonalSystem | None, other: DiagonalSystem | None) -> DiagonalSystem:
    """What was set aside; no slots, of the other's shape, where nothing was."""
    if rest is not None:
        return rest
    if other is None:
        raise ValueError("nothing was set aside on either side")
    nothing = slice(0, 0)
    return DiagonalSystem(other.a[:, nothing], other.B[:, nothing], other.C[:, :, nothing], other.D)


def _reason(found: Outside, apart: np.ndarray, counts: tuple[np.ndarray, np.ndarray]) -> str:
    s = int(np.argmax(apart))
    before, after = (int(count[s]) for count in counts)
    if before != after:
        how = f"{after} in place of {before}"
    elif found.poles[s]:
        how = "other poles"
    else:
        how = f"the same poles with other weights, {found.deviation[s]:.2g} apart"
    more = "" if apart.sum() == 1 else f" (and in {int(apart.sum()) - 1} more)"
    return f"states on or outside the unit circle are not those of the original in system {s}{more}: {how}"


def _identical(first: System, second: System) -> bool:
    return type(first) is type(second) and all(
        np.array_equal(getattr(first, field.name), getattr(second, field.name)) for field in fields(first)
    )
