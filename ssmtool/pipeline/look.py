"""What a report shows of one layer as a piece of work that can be sent and kept: poles, responses, sizes, distance."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssmtool.cache import digest
from ssmtool.checkpoint import Checkpoint, open_checkpoint
from ssmtool.errors import CheckpointError
from ssmtool.families._contract import Layer
from ssmtool.pipeline.engines._contract import Arrays, Step
from ssmtool.pipeline.model import Model
from ssmtool.pipeline.packing import packed, unpacked
from ssmtool.pipeline.pairing import refined_layers
from ssmtool.pipeline.partner import distance, orders_of, recorded_order
from ssmtool.pipeline.predicted_size import predicted_sizes
from ssmtool.pipeline.reduction_work import SOURCES
from ssmtool.pipeline.samples import Poles, Responses, sample_poles, sample_responses
from ssmtool.pipeline.storage import storage_rounding
from ssmtool.sources import version_of

VERSION = 1


@dataclass(frozen=True)
class Look:
    """One layer, and the same layer of a reduced model; None or empty for what was not asked for.

    Attributes:
        poles, reduced_poles, responses: of a linear layer.
        sizes: predicted bytes per rank; empty where they cannot be predicted.
        orders: (S,) of the reduced layer.
        error: H-infinity error relative to the Hankel norm; None also where unstable states differ.
    """

    poles: Poles | None = None
    reduced_poles: Poles | None = None
    responses: Responses | None = None
    sizes: tuple[int, ...] = ()
    orders: np.ndarray | None = None
    error: float | None = None


@dataclass(frozen=True)
class Counterpart:
    """A linear layer of the reduced model. Another process is sent its path, and opens it again.

    Attributes:
        model: the reduced model.
        layer: in it.
        content: hash of the layer.
        order: the largest, by the checkpoint's own record; None without one.
        fitted: whether weights were fitted after the reduction, by the record.
    """

    model: Model
    layer: Layer
    content: str
    order: int | None
    fitted: bool

    def __reduce__(self) -> tuple[Any, ...]:
        path = str(self.model.checkpoint.path.absolute())
        return _sent, (path, self.layer, self.content, self.order, self.fitted)


def counterpart(reduced: Model, layer: Layer, record: Mapping[str, Any]) -> Counterpart:
    """A layer of an opened model. Args: record: what its checkpoint says of how it was made."""
    fitted = layer.name in refined_layers(record)
    return Counterpart(reduced, layer, reduced.content(layer), recorded_order(record, layer.name), fitted)


def _sent(path: str, layer: Layer, *facts: Any) -> Counterpart:
    return Counterpart(Model(_opened(path), (layer,)), layer, *facts)


@functools.lru_cache(maxsize=1)
def _opened(path: str) -> Checkpoint:
    """For all layers that one process is sent."""
    return open_checkpoint(path)


@dataclass(frozen=True)
class LookWork:
    """A `Work` whose result is a `Look`.

    Attributes:
        parts: of "poles", "responses", "sizes", "orders" and "error".
        positions: ranks that sizes are predicted for.
        systems: whose responses are sampled; None for representative ones.
        norm: (S,) Hankel norms of a linear layer; None where they are not known.
        layout: of the checkpoint, see `layout`: what a layer is stored as depends on it.
        other: the layer of the reduced model; None without one.
    """

    parts: frozenset[str]
    positions: tuple[int, ...]
    systems: tuple[int, ...] | None
    norm: np.ndarray | None
    layout: str
    other: Counterpart | None

    def key(self, content: str) -> str:
        other = None
        if self.other is not None:
            other = (self.other.content, self.other.order, self.other.fitted)
        asked = (sorted(self.parts), self.positions, self.systems, self.norm)
        return digest("look", VERSION, version_of(*SOURCES), content, self.layout, asked, other)

    def compute(self, model: Model, layer: Layer, step: Step | None) -> Arrays:
        if not layer.lti:
            sizes = predicted_sizes(model, layer, model.mixers(layer), self.positions) if "sizes" in self.parts else []
            return packed(Look(sizes=tuple(sizes)))
        system = model.system(layer)
        found: dict[str, Any] = {}
        second = None
        if self.other is not None:
            reduced = self.other.model
            second = reduced.system(self.other.layer)
            if "orders" in self.parts:
                found["orders"] = orders_of(second, self.other.order)
            if "error" in self.parts and self.norm is not None:
                rounding = storage_rounding(reduced, self.other.layer)
                found["error"] = distance(system, second, self.norm, rounding, self.other.fitted)
            if "poles" in self.parts:
                found["reduced_poles"] = sample_poles(second)
            if reduced.content(self.other.layer) != self.other.content:
                raise CheckpointError(
                    f"layer {layer.name} changed while it was in use",
                    where=str(reduced.checkpoint.path),
                    remedy="Something writes to it: run it again when it is at rest",
                )
        if "poles" in self.parts:
            found["poles"] = sample_poles(system)
        if "responses" in self.parts and self.norm is not None:
            found["responses"] = sample_responses(system, self.norm, second, self.systems)
        if "sizes" in self.parts:
            found["sizes"] = tuple(predicted_sizes(model, layer, system, self.positions))
        return packed(Look(**found))

    def result(self, layer: Layer, arrays: Arrays) -> Look:
        found = unpacked(Look, arrays)
        if len(found.sizes) not in (0, len(self.positions)):
            raise ValueError("not of these ranks")
        if found.responses is not None:
            shown = found.responses
            if shown.gain.shape != (len(shown.systems), len(shown.omega)) or max(shown.systems) >= layer.systems:
                raise ValueError("not of this layer")
        return found
