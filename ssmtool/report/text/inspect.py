"""What is in a checkpoint, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssmtool.report.facts import channels, layer_share, share
from ssmtool.report.text.notes import add_notes
from ssmtool.report.text.numbers import percent, plural, shape, size
from ssmtool.report.text.page import Page

if TYPE_CHECKING:
    from ssmtool.families._contract import Layer
    from ssmtool.pipeline.model import Model

_COLUMNS = ("layer", "family", "systems", "slots", "order", "chan.", "dtype", "params", "share", "kind")


def inspect_text(model: Model, terminal: bool | None = None) -> str:
    """The layers of a checkpoint, one a row, and their share of its parameters."""
    page, checkpoint = Page(terminal), model.checkpoint
    total, ours = share(checkpoint.tensors.values()), layer_share(model, model.layers)
    shards = f" in {plural(len(checkpoint.weights), 'file')}" if len(checkpoint.weights) > 1 else ""
    page.line(str(checkpoint.path), "bold")
    page.line(
        f"{checkpoint.kind}: {plural(len(checkpoint.tensors), 'tensor')}{shards}, "
        f"{plural(total.parameters, 'parameter')}, {size(total.bytes)} ({', '.join(total.dtypes)})"
    )
    page.line()
    page.table(_COLUMNS, (_row(model, layer, total.parameters) for layer in model.layers), left=(0, 1, 6, 9))
    page.line()
    page.line(
        f"{plural(len(model.layers), 'state-space layer')}: {ours.parameters:,} of "
        f"{plural(total.parameters, 'parameter')} ({percent(ours.parameters, total.parameters)}), {size(ours.bytes)}."
    )
    page.paragraph(
        "systems: how many, and inputs→outputs of each. slots: stored modes per system. order: states of the real "
        "input-output system, per system, as stored. chan.: channels of the sequence it maps."
    )
    add_notes(page, ((layer.name, layer.note) for layer in model.layers))
    return page.text()


def _row(model: Model, layer: Layer, total: int) -> list[str]:
    part = layer_share(model, [layer])
    same = layer.variant == layer.family
    return [
        layer.name,
        layer.family if same else f"{layer.family} {layer.variant}",
        shape(layer.systems, layer.inputs, layer.outputs),
        str(layer.slots),
        str(layer.order),
        str(channels(layer)),
        "+".join(part.dtypes),
        f"{part.parameters:,}",
        percent(part.parameters, total),
        "LTI" if layer.lti else "selective",
    ]
