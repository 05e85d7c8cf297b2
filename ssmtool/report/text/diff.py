"""Two models layer by layer, as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ssmtool.checks.diff import NUMBERS
from ssmtool.checks.words import number
from ssmtool.report.text.numbers import plural, sci, size
from ssmtool.report.text.page import Page
from ssmtool.shown import printable

if TYPE_CHECKING:
    from ssmtool.checks.diff import LayerDiff

HEADINGS = {
    "systems": "systems",
    "states": "order",
    "bytes": "size",
    "hankel_norm": "σ₁",
    "order_energy_0.99": "99 %\nof Σσ",
    "order_error_1e-2": "error\n1e-2",
    "effective_size": "effective",
    "redundant": "σ = 0",
    "unstable": "σ = ∞",
    "margin": "margin",
    "horizon": "horizon",
}
_MEASURED = ("hankel_norm", "margin")


def diff_text(before: str, after: str, layers: Sequence[LayerDiff], terminal: bool | None = None) -> str:
    """One row per layer; a number that is the same on both sides is shown once."""
    page = Page(terminal)
    page.line(f"{printable(before)} → {printable(after)}", "bold")
    page.line()
    pairs = [layer.pairs() for layer in layers]
    shown = [name for name in NUMBERS if any(name in pair for pair in pairs)]
    columns = ("layer", *(HEADINGS[name] for name in shown), "change\nof σ", "")
    rows = []
    for layer, pair in zip(layers, pairs, strict=True):
        cells = [_cell(name, *pair.get(name, (None, None))) for name in shown]
        change = "–" if layer.sigma_change is None else sci(layer.sigma_change)
        rows.append([printable(layer.name), *cells, change, _verdict(layer)])
    page.table(columns, rows, left=(0, len(columns) - 1))
    page.line()
    page.paragraph(
        "Before → after, one number where both are the same to the digits shown. order: states as stored, per system. "
        "99 % of Σσ, error 1e-2, horizon: the largest of the systems; effective: the median. change of σ: largest "
        "change of a value relative to σ₁ of its system. – where one side does not say."
    )
    page.line()
    changed = sum(layer.changed for layer in layers)
    page.line(f"{changed} of {plural(len(layers), 'layer')} changed." if changed else "Nothing changed.", "bold")
    return page.text()


def _verdict(layer: LayerDiff) -> str:
    if layer.before is None:
        return "new"
    if layer.after is None:
        return "gone"
    return "changed" if layer.changed else "same"


def _cell(name: str, before: float | None, after: float | None) -> str:
    texts = [_number(name, value) for value in (before, after)]
    return texts[0] if texts[0] == texts[1] else " → ".join(texts)


def _number(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    if name == "bytes":
        return size(int(value))
    return sci(value) if name in _MEASURED else number(value, "states")
