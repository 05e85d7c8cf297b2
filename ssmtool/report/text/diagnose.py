"""A diagnosis as text: per section its tables, what they mean in words, and what is missing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ssmtool.report.text.page import Page

if TYPE_CHECKING:
    from ssmtool.analyses._contract import Cell, Table, Verdict
    from ssmtool.pipeline.diagnose import Diagnosis
    from ssmtool.pipeline.model import Model
    from ssmtool.training.evaluate import Evaluation


def diagnose_text(
    model: Model,
    found: Diagnosis,
    accuracy: Evaluation | None = None,
    files: Iterable[Path] = (),
    terminal: bool | None = None,
) -> str:
    """All sections of a diagnosis."""
    page = Page(terminal)
    page.line(f"Diagnosis of {model.checkpoint.path}", "bold")
    if found.tokens is not None:
        page.line(f"on {found.sequences} × {found.length} of {found.tokens.description}")
    if accuracy is not None:
        page.line(
            f"Task {accuracy.task}: accuracy {100 * accuracy.accuracy:.2f} % ({accuracy.correct}/{accuracy.total})"
        )
    for name, section in found.sections.items():
        page.line()
        page.line(name.replace("_", " ").upper(), "bold")
        for table in section.tables():
            page.line()
            _add(page, table)
        if section.missing:
            page.line()
        for sentence in section.missing:
            page.paragraph(sentence[0].upper() + sentence[1:] + ".")
        _add_verdicts(page, section.verdicts)
    if files := list(files):
        page.line()
        for file in files:
            page.line(f"Wrote {file}")
    return page.text()


def _add(page: Page, table: Table) -> None:
    left = tuple(i for i in range(len(table.columns)) if all(_is_text(row[i]) for row in table.rows))
    page.table(table.columns, [[cell(value) for value in row] for row in table.rows], left)
    if table.note:
        page.line()
        page.paragraph(table.note)


def _add_verdicts(page: Page, verdicts: Sequence[Verdict]) -> None:
    """One paragraph per sentence; layers of which the same is said share it."""
    layers: dict[str, list[str]] = {}
    for verdict in verdicts:
        layers.setdefault(verdict.text, []).append(verdict.layer)
    if layers:
        page.line()
    for text, names in layers.items():
        named = [name for name in names if name]
        few = ", ".join(named) if len(named) <= 4 else f"{named[0]} and {len(named) - 1} more layers"
        page.paragraph(f"• {few}: {text}." if named else f"• {text[0].upper()}{text[1:]}.", hang="  ")


def _is_text(value: Cell) -> bool:
    return isinstance(value, str) and not value.endswith(" %")


def cell(value: Cell) -> str:
    """A number with three significant digits; – for what was not measured."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value)
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if 0.9 < abs(value) < 1:  # eigenvalues near the unit circle differ in later digits
        return f"{value:.4f}"
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.1e}"
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:.{digits}f}"
