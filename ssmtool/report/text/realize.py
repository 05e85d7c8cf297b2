"""Impulse responses as state-space models, as text."""

from __future__ import annotations

import math
import shlex
from typing import TYPE_CHECKING

from ssmtool.report.text.notes import add_notes
from ssmtool.report.text.numbers import sci, shape, size, span
from ssmtool.report.text.page import Page

if TYPE_CHECKING:
    from ssmtool.pipeline.realisation import LayerRealisation, Realised

_COLUMNS = ("layer", "systems", "lags", "method", "states", "slots")
_ERRORS = {"least": "least", "bound": "bound", "hinf": "H∞ error", "lags": "lag error", "beyond": "beyond"}


def realize_text(done: Realised, terminal: bool | None = None) -> str:
    """Per array how it was read, what it became and what that costs; the command to go on with."""
    page = Page(terminal)
    page.line(f"{done.source.path}: {done.target}" + (", dry run" if done.output is None else ""), "bold")
    page.line()
    page.table((*_COLUMNS, *_ERRORS.values()), map(_row, done.layers), left=(0, 3))
    page.line()
    page.paragraph(
        "H∞ error: measured on the tensors as stored, against the response that is 0 after its last lag; least: no "
        "model with as many states has a smaller one; bound: known beforehand, without rounding. All over σ₁ of the "
        "response. lag error: of the lags themselves, and beyond: what the model adds after the last one, in the L2 "
        "norm over that of the response. The largest of a layer's systems."
    )
    if any(math.isnan(layer.relative("bound")) for layer in done.layers):
        page.paragraph("–: no bound for at least one system (era has none).")
    add_notes(page, [(layer.name, remark) for layer in done.layers for remark in layer.remarks])
    page.line()
    if done.output is None:
        page.line("Nothing was written: run it again without --dry-run.")
    else:
        page.line(f"Wrote {done.output} ({size(done.bytes)} of tensors)", "bold")
        page.line(f"Next: {shlex.join(['ssmtool', 'hsv', str(done.output)])}")
    return page.text()


def _row(layer: LayerRealisation) -> list[str]:
    counts = {name: layer.methods.count(name) for name in dict.fromkeys(layer.methods)}
    several = len(counts) > 1
    return [
        layer.name,
        shape(layer.systems, layer.inputs, layer.outputs),
        str(layer.length),
        ", ".join(f"{name} ({count})" if several else name for name, count in counts.items()),
        span(layer.orders),
        str(layer.slots),
        *(sci(layer.relative(name)) for name in _ERRORS),
    ]
