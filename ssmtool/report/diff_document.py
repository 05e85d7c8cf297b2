"""Two models layer by layer, as a JSON document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from ssmtool.report import schema
from ssmtool.version import __version__

if TYPE_CHECKING:
    from ssmtool.checks.diff import LayerDiff


class Side(schema._Strict):
    path: str
    kind: Literal["model", "document"]
    command: str | None = Field(description="that made the document; null for a model")


class Change(schema._Strict):
    before: float | None
    after: float | None


class DiffLayer(schema._Strict):
    name: str
    status: Literal["same", "changed", "new", "gone"]
    numbers: dict[str, Change] = Field(description="those that at least one side has")
    sigma_change: float | None


class DiffDocument(schema._Strict):
    schema_version: Literal[1] = schema.SCHEMA_VERSION
    tool: schema.Tool
    command: str
    options: dict[str, Any]
    before: Side
    after: Side
    changed: bool
    layers: list[DiffLayer]


def diff_document(before: Side, after: Side, layers: Sequence[LayerDiff], options: Mapping[str, Any]) -> DiffDocument:
    """What `ssmtool diff` found."""
    return DiffDocument(
        tool=schema.Tool(version=__version__),
        command="diff",
        options={name: str(value) if isinstance(value, Path) else value for name, value in options.items()},
        before=before,
        after=after,
        changed=any(layer.changed for layer in layers),
        layers=[_layer(layer) for layer in layers],
    )


def _layer(layer: LayerDiff) -> DiffLayer:
    status: Literal["same", "changed", "new", "gone"] = "changed" if layer.changed else "same"
    if layer.before is None or layer.after is None:
        status = "new" if layer.before is None else "gone"
    return DiffLayer(
        name=layer.name,
        status=status,
        numbers={name: Change(before=x, after=y) for name, (x, y) in layer.pairs().items()},
        sigma_change=layer.sigma_change,
    )
