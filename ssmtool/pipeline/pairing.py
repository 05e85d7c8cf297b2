"""Do two checkpoints belong together, and what does the reduced one say of itself?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from ssmtool.errors import MismatchError
from ssmtool.families._contract import Layer
from ssmtool.pipeline.model import Model


def partners(original: Model, reduced: Model, chosen: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """The reduced model's layer for every chosen one. Raises MismatchError."""
    theirs = {layer.name: layer for layer in reduced.layers}
    where = f"{original.checkpoint.path} and {reduced.checkpoint.path}"
    if set(theirs) != {layer.name for layer in original.layers}:
        raise MismatchError(
            f"different layers: {_names(original)} against {_names(reduced)}",
            where=where,
            remedy="Give a checkpoint and a reduction of it",
        )
    for layer in chosen:
        other = theirs[layer.name]
        shape, changed = ((x.systems, x.inputs, x.outputs) for x in (layer, other))
        if shape != changed or layer.family != other.family:
            raise MismatchError(
                f"layer {layer.name} is {layer.family} with {shape} systems, inputs, outputs in one and {other.family} "
                f"with {changed} in the other",
                where=where,
                remedy="Give a checkpoint and a reduction of it",
            )
    return tuple(theirs[layer.name] for layer in chosen)


def _names(model: Model) -> str:
    names = [layer.name for layer in model.layers]
    return ", ".join(names[:4]) + (" …" if len(names) > 4 else "")


def recorded_bounds(original: Model, reduced: Model) -> dict[str, np.ndarray]:
    """Bounds per layer from the reduced checkpoint's record, {} without one. Raises MismatchError: other source."""
    record = record_of(original, reduced)
    systems = {layer.name: layer.systems for layer in reduced.layers}
    try:
        rows = {str(row["name"]): [np.nan if x is None else float(x) for x in row["bound"]] for row in record["layers"]}
    except (KeyError, TypeError, ValueError, OverflowError):
        return {}
    return {name: np.array(row) for name, row in rows.items() if len(row) == systems.get(name)}


def refined_layers(record: Mapping[str, Any]) -> set[str]:
    """Names of the layers that a record of `compress` says were refined: their weights are fitted."""
    rows = record.get("layers")
    if not isinstance(rows, list):
        return set()
    return {str(row.get("name")) for row in rows if isinstance(row, dict) and row.get("refined") is True}


def recorded(reduced: Model) -> dict[str, Any]:
    """What `compress` wrote into a checkpoint, whatever it was made from; {} where nothing can be read."""
    try:
        record = json.loads(reduced.checkpoint.metadata["ssmtool"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def record_of(original: Model, reduced: Model) -> dict[str, Any]:
    """What the reduced checkpoint says of how it was made, {} where it says nothing of the kind.

    Raises:
        MismatchError: it was made from another checkpoint.
    """
    record = recorded(reduced)
    if "source_sha256" not in record:
        return {}
    source = str(record["source_sha256"])
    if source != original.checkpoint.sha256():
        raise MismatchError(
            f"the reduced checkpoint was made from another one (sha256 {source[:12]}…)",
            where=f"{original.checkpoint.path} and {reduced.checkpoint.path}",
            remedy="Give the checkpoint it was made from",
        )
    return record


def check_rest(original: Model, reduced: Model, recorded: bool) -> None:
    """Everything outside the state-space layers must be the same tensors. Raises MismatchError."""
    outside = []
    for model in (original, reduced):
        # Tensors beside a layer's own are its too: some layouts keep spare copies there that change size with it.
        inside = {_parent(name) for layer in model.layers for name in layer.tensors.values()}
        outside.append({n: t for n, t in model.checkpoint.tensors.items() if _parent(n) not in inside})
    first, second = outside
    differing = [name for name, info in first.items() if name in second and second[name] != info]
    if not recorded and not differing:
        # Without a record only the contents tell whether the two belong together.
        for name in first.keys() & second.keys():
            pieces = zip(original.checkpoint.chunks(name), reduced.checkpoint.chunks(name), strict=True)
            if any(x != y for x, y in pieces):
                differing.append(name)
    if differing:
        raise MismatchError(
            f"weights outside the state-space layers differ: {', '.join(sorted(differing)[:3])}",
            where=f"{original.checkpoint.path} and {reduced.checkpoint.path}",
            remedy="Give a checkpoint and a reduction of it",
        )


def _parent(name: str) -> str:
    return name.replace("/", ".").rpartition(".")[0]
