"""`validate` for a report: what it found of a layer is kept, and times are measured in every run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from glob import escape
from typing import Any

import torch

from ssmtool.cache import Cache, digest
from ssmtool.families._contract import Layer
from ssmtool.lti.devices import device_kind
from ssmtool.lti.factors import resolve_device
from ssmtool.lti.split import split
from ssmtool.pipeline.model import LayerProgress, Model
from ssmtool.pipeline.packing import packed, unpacked
from ssmtool.pipeline.pairing import check_rest, record_of, recorded_bounds
from ssmtool.pipeline.scans import floor_share, resolved, scan_seconds
from ssmtool.pipeline.signals import LENGTH, SEED, generated
from ssmtool.pipeline.validate import validate
from ssmtool.pipeline.validation import LayerValidation, Validation
from ssmtool.sources import version_of

VERSION = 1
SOURCES = ("ssmtool.checkpoint", "ssmtool.families", "ssmtool.lti", "ssmtool.pipeline", "ssmtool_kernels")
_MEASURED = ("seconds_original", "seconds_reduced", "floor_original", "floor_reduced")  # and never kept


def kept_validation(
    model: Model,
    reduced: Model,
    pairs: Sequence[tuple[Layer, Layer]],
    *,
    device: str,
    backend: str,
    cache: Cache,
    progress: LayerProgress,
) -> Validation:
    """As `validate` with its own inputs and without a limit.

    Args:
        pairs: linear layers of both models, in the order of the result.
        cache: where everything but times is kept, layer by layer.

    Raises:
        MismatchError, UsageError, CheckpointError: as `validate`.
    """
    target = resolve_device(device)
    running = resolved(backend, target)
    record = record_of(model, reduced)
    bounds = recorded_bounds(model, reduced)
    check_rest(model, reduced, bool(bounds))
    keys = {a.name: _key(model, reduced, a, b, record, running, target) for a, b in pairs} if cache.keeps else {}
    found: dict[str, LayerValidation] = {}
    for layer, partner in pairs:
        known = cache.recall(keys[layer.name], partial(_known, layer)) if keys else None
        if known is not None:
            found[layer.name] = _timed(known, model, reduced, layer, partner, target, running)
            progress(layer, 1, 1)
    unknown = [layer for layer, _ in pairs if layer.name not in found]
    # Without a record every call compares all other weights of both files: then all layers are one call.
    for group in [[layer] for layer in unknown] if keys and bounds else [unknown]:
        if not group:
            continue
        done = validate(
            model, reduced, length=LENGTH, seed=SEED, layers=[escape(layer.name) for layer in group], device=device,
            backend=backend, progress=progress,
        )  # fmt: skip
        found |= {row.name: row for row in done.layers}
        if keys:
            for opened in (model, reduced):
                opened.checkpoint.check_unchanged()
            for row in done.layers:
                cache.put(keys[row.name], packed(row, leaving=("name", *_MEASURED)))
    return Validation(tuple(found[layer.name] for layer, _ in pairs), LENGTH, str(target), running, None)


def _key(
    model: Model,
    reduced: Model,
    layer: Layer,
    partner: Layer,
    record: Mapping[str, Any],
    backend: str,
    device: torch.device,
) -> str:
    rows = record.get("layers")
    said = [row for row in rows if isinstance(row, dict) and row.get("name") == layer.name] if rows else []
    return digest(
        "validation", VERSION, version_of(*SOURCES), model.content(layer), reduced.content(partner),
        json.dumps(said, sort_keys=True), LENGTH, SEED, backend, device_kind(str(device)),
    )  # fmt: skip


def _known(layer: Layer, arrays: Mapping[str, Any]) -> LayerValidation:
    """What was kept, without times. Raises KeyError, ValueError, TypeError: it is nothing of this kind."""
    nothing: dict[str, Any] = {"seconds_original": 0.0, "seconds_reduced": 0.0}
    return unpacked(LayerValidation, arrays, name=layer.name, **nothing, floor_original=None, floor_reduced=None)


def _timed(
    known: LayerValidation,
    model: Model,
    reduced: Model,
    layer: Layer,
    partner: Layer,
    device: torch.device,
    backend: str,
) -> LayerValidation:
    """The same with the times of now, measured as `validate` does: of stable parts, on the first input."""
    u = next(iter(generated(layer, LENGTH, SEED).values()))
    systems = [split(opened.system(own))[0] for opened, own in ((model, layer), (reduced, partner))]
    first, second = (scan_seconds(system, u, device, backend) for system in systems)
    return replace(
        known,
        seconds_original=first,
        seconds_reduced=second,
        floor_original=floor_share(systems[0], LENGTH, first, device),
        floor_reduced=floor_share(systems[1], LENGTH, second, device),
    )
