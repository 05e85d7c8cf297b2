"""The sections of `diagnose` on the page: verdicts in words, pictures, tables."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ssmtool.analyses._contract import Section, Table, Verdict
from ssmtool.pipeline.portrait import Portrait
from ssmtool.report.overview.sections import panel_chart
from ssmtool.report.overview.view import Grid, Part, grid

TITLES = {
    "timescales": "Time scales",
    "memory": "Memory in use",
    "state_tracking": "State tracking",
    "parametrisation": "Parametrisation",
    "token_dynamics": "Token dynamics",
    "relevance": "Relevance",
}
_SHARE = re.compile(r"[-−+]?[\d.]+ %")


def diagnosis_parts(found: Portrait) -> list[Part]:
    """One part per section that has something to show, time scales first."""
    if found.diagnosis is None:
        return []
    sections = found.diagnosis.sections
    first = [name for name in TITLES if name in sections]
    parts = []
    for name in [*first, *(name for name in sections if name not in TITLES)]:
        part = _part(name, sections[name])
        if part is not None:
            parts.append(part)
    return parts


def _part(name: str, section: Section) -> Part | None:
    title = TITLES.get(name, name.replace("_", " ").capitalize())
    grids = tuple(_grid(table, title) for table in section.tables())
    pictures = tuple(panel_chart(panel, title) for panel in section.panels())
    words = tuple(_sentence(text) for text in section.missing)
    if not grids and not pictures:
        return None
    return Part(name, title, words, tuple(_verdicts(section.verdicts)), grids, pictures, folded=True)


def _grid(table: Table, title: str) -> Grid:
    text = tuple(
        i
        for i in range(len(table.columns))
        if all(isinstance(row[i], str) and not _SHARE.fullmatch(str(row[i])) for row in table.rows)
    )
    return grid(title, table.columns, table.rows, text, table.note)


def _verdicts(verdicts: Sequence[Verdict]) -> list[str]:
    """One sentence per statement; layers of which the same is said share it."""
    layers: dict[str, list[str]] = {}
    for verdict in verdicts:
        layers.setdefault(verdict.text, []).append(verdict.layer)
    found = []
    for text, names in layers.items():
        named = [name for name in names if name]
        few = ", ".join(named) if len(named) <= 4 else f"{named[0]} and {len(named) - 1} more layers"
        found.append(f"{few}: {text}." if named else _sentence(text))
    return found


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
