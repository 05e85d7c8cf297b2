"""A layer and the same layer of a reduced model: orders, bytes and the distance between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ssmtool.families._contract import Layer
from ssmtool.lti.minimal import minimal
from ssmtool.lti.spectrum import Spectrum
from ssmtool.lti.systems import DiagonalSystem, System
from ssmtool.pipeline.model import Model
from ssmtool.pipeline.pairing import refined_layers
from ssmtool.pipeline.stable_parts import stable_parts
from ssmtool.pipeline.storage import layer_bytes, storage_rounding
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


class HasSpectrum(Protocol):
    """What is known of the original layer."""

    @property
    def layer(self) -> Layer: ...

    @property
    def spectrum(self) -> Spectrum | None: ...


def compared(
    row: HasSpectrum,
    first: System,
    second: System,
    reduced: Model,
    partner: Layer,
    validation: Validation | None,
    record: Mapping[str, Any],
) -> Partner:
    """The reduced layer and its H-infinity distance: that of the validation where there was one.

    Args:
        record: what the reduced checkpoint says of itself. A real pole that storage turned a hair off the axis looks
            like two states; the record has the orders before.
    """
    size = layer_bytes(reduced, partner, {})[0]
    known = _order(second)
    recorded = _recorded_order(record, row.layer.name)
    if recorded is not None:
        known = np.minimum(known, recorded)
    if validation is not None:
        for found in validation.layers:
            if found.name == row.layer.name:
                bound = None if np.isnan(found.bound) else found.bound
                error = found.hinf if np.isfinite(found.hinf) else None
                return Partner(partner.slots, known, size, error, bound)
    if row.spectrum is None:
        return Partner(partner.slots, known, size, None, None)
    fitted = row.layer.name in refined_layers(record)
    parts = stable_parts(first, second, storage_rounding(reduced, partner), same_weights=not fitted)
    if parts.reason:
        return Partner(partner.slots, known, size, None, None)
    norm = np.where(np.isinf(row.spectrum.sigma), 0.0, row.spectrum.sigma).max(axis=1, initial=0.0)
    scale = np.where(norm > 0, norm, 1.0)
    return Partner(partner.slots, known, size, float((parts.hinf_error("cpu") / scale).max()), None)


def _order(system: System) -> np.ndarray:
    """(S,) states of each system without redundant ones."""
    if not isinstance(system, DiagonalSystem):
        return np.full(system.systems, system.order)
    found = minimal(system)
    return found.order + found.unstable


def _recorded_order(record: Mapping[str, Any], name: str) -> int | None:
    """The largest order of a layer's systems in a record of `compress`."""
    try:
        return next(int(max(row["orders"])) for row in record["layers"] if row["name"] == name)
    except (KeyError, TypeError, ValueError, StopIteration):
        return None
