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
MANY = 4  # statements that differ in numbers alone, from which on they are one
_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?:e[-+]\d+)?(?![\w])")
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
    """One sentence per statement; layers of which the same is said share it.

    Of many layers what differs in numbers alone is one statement with ranges.
    """
    alike: dict[str, dict[str, list[str]]] = {}
    for verdict in verdicts:
        alike.setdefault(_NUMBER.sub("#", verdict.text), {}).setdefault(verdict.text, []).append(verdict.layer)
    layers: list[tuple[str, list[str]]] = []
    for texts in alike.values():
        if len(texts) > MANY and all(all(names) for names in texts.values()):
            layers.append((_ranged(list(texts)), [name for names in texts.values() for name in names]))
        else:
            layers += texts.items()
    found = []
    for text, names in layers:
        named = [name for name in names if name]
        few = ", ".join(named) if len(named) <= 4 else f"{named[0]} and {len(named) - 1} more layers"
        found.append(f"{few}: {text}." if named else _sentence(text))
    return found


def _ranged(texts: Sequence[str]) -> str:
    """Sentences that differ in numbers as one, with the least and the largest of each number."""
    columns = zip(*(_NUMBER.findall(text) for text in texts), strict=True)
    ends = iter((min(column, key=float), max(column, key=float)) for column in columns)

    def both(_: re.Match[str]) -> str:
        low, high = next(ends)
        return low if float(low) == float(high) else f"{low}–{high}"

    return _NUMBER.sub(both, texts[0])


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
