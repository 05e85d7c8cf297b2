"""A layer and the same layer of a reduced model: orders, bytes and the distance between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ssmtool.families._contract import Layer
from ssmtool.lti.minimal import minimal
from ssmtool.lti.norms import difference, hinf_norm
from ssmtool.lti.spectrum import Spectrum
from ssmtool.lti.stability import unstable_states
from ssmtool.lti.systems import DiagonalSystem, System
from ssmtool.pipeline.model import Model
from ssmtool.pipeline.storage import layer_bytes
from ssmtool.pipeline.validation import Validation


@dataclass(frozen=True)
class Partner:
    """A layer of the reduced model.

    Attributes:
        slots: stored modes per system.
        orders: (S,) states of each system without redundant ones; of a selective layer, states per channel.
        bytes: of its tensors.
        error: largest H-infinity error of a system relative to its Hankel norm; None where it was not measured.
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
    known = minimal(second).order if isinstance(second, DiagonalSystem) else np.full(partner.systems, second.order)
    recorded = _recorded_order(record, row.layer.name)
    if recorded is not None:
        known = np.minimum(known, recorded)
    if validation is not None:
        for found in validation.layers:
            if found.name == row.layer.name:
                bound = None if np.isnan(found.bound) else found.bound
                return Partner(partner.slots, known, size, found.hinf, bound)
    if row.spectrum is None or unstable_states(first).any() or unstable_states(second).any():
        return Partner(partner.slots, known, size, None, None)
    norm = row.spectrum.sigma.max(axis=1, initial=0.0)
    error = hinf_norm(difference(first, second))
    scale = np.where(norm > 0, norm, 1.0)
    return Partner(partner.slots, known, size, float((error / scale).max()), None)


def _recorded_order(record: Mapping[str, Any], name: str) -> int | None:
    """The largest order of a layer's systems in a record of `compress`."""
    try:
        return next(int(max(row["orders"])) for row in record["layers"] if row["name"] == name)
    except (KeyError, TypeError, ValueError, StopIteration):
        return None
