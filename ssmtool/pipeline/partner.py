"""A layer and the same layer of a reduced model: orders, bytes and the distance between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssmtool.lti.minimal import minimal
from ssmtool.lti.systems import DiagonalSystem, System
from ssmtool.pipeline.stable_parts import stable_parts
from ssmtool.pipeline.validation import Validation


@dataclass(frozen=True)
class Partner:
    """A layer of the reduced model.

    Attributes:
        slots: stored modes per system.
        orders: (S,) states of each system without redundant ones; of a selective layer, states per channel.
        bytes: of its tensors.
        error: largest H-infinity error of a system, of its stable part where others are kept, relative to its Hankel
            norm; None where it was not measured, or where unstable states differ.
        bound: largest certified bound, relative to the same; None where it is not known.
    """

    slots: int
    orders: np.ndarray
    bytes: int
    error: float | None
    bound: float | None


def orders_of(system: System, recorded: int | None) -> np.ndarray:
    """(S,) states of each system of a reduced layer without redundant ones.

    Args:
        recorded: the largest order by the checkpoint's own record. A real pole that storage turned a hair off the axis
            looks like two states; the record has the orders before.
    """
    if isinstance(system, DiagonalSystem):
        found = minimal(system)
        known = found.order + found.unstable
    else:
        known = np.full(system.systems, system.order)
    return known if recorded is None else np.minimum(known, recorded)


def distance(first: System, second: System, norm: np.ndarray, rounding: float, fitted: bool) -> float | None:
    """Largest H-infinity error of a system relative to its Hankel norm; None where unstable states differ.

    Args:
        first, second: S systems before and after.
        norm: (S,) Hankel norms.
        rounding: share by which storage may have changed a number.
        fitted: whether the weights were fitted after the reduction, so that unstable states share poles alone.
    """
    parts = stable_parts(first, second, rounding, same_weights=not fitted)
    if parts.reason:
        return None
    return float((parts.hinf_error("cpu") / np.where(norm > 0, norm, 1.0)).max())


def validated(validation: Validation | None, name: str) -> tuple[float | None, float | None]:
    """Error and bound of a layer that was validated; None where there is none."""
    for found in () if validation is None else validation.layers:
        if found.name == name:
            finite = (float(x) if np.isfinite(x) else None for x in (found.hinf, found.bound))
            return next(finite), next(finite)
    return None, None


def recorded_order(record: Mapping[str, Any], name: str) -> int | None:
    """The largest order of a layer's systems in a record of `compress`."""
    try:
        return next(int(max(row["orders"])) for row in record["layers"] if row["name"] == name)
    except (KeyError, TypeError, ValueError, StopIteration):
        return None
