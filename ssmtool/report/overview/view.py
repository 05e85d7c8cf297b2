"""What is on the page, as data: sections of words, tables and pictures, and what the slider needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ssmtool.report.overview.chart import Picture

Value = str | int | float | None


@dataclass(frozen=True)
class Cell:
    """One cell: what is read, and what it is sorted by (None sorts last)."""

    text: str
    key: str | float | None = None


@dataclass(frozen=True)
class Column:
    """One column. `number`: aligned right and sorted by size."""

    name: str
    number: bool = True


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        caption: what it is.
        rows: the first cell of each is its heading.
        note: what the columns mean.
        key: of the table in the page, "" for none.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    key: str = ""


@dataclass(frozen=True)
class Part:
    """One section of the page.

    Attributes:
        key: its anchor.  title: its heading.
        words: paragraphs; points: a list of sentences.
        grids, pictures: below the words.
        folded: the tables can be folded away.
    """

    key: str
    title: str
    words: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    grids: tuple[Grid, ...] = ()
    pictures: tuple[Picture, ...] = ()
    folded: bool = False


@dataclass(frozen=True)
class LayerPart:
    """One layer's pictures.

    Attributes:
        name: of the layer.  kind: linear or selective.
        facts: one line about it.
        pictures: decay first.
        remarks: sentences.
    """

    name: str
    kind: str
    facts: str
    pictures: tuple[Picture, ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class RankLayer:
    """What the slider shows of one layer; lists go over `Ranks.ranks`.

    Attributes:
        order: states per system (per channel, for a selective layer).
        bound: largest bound relative to sigma_1, or predicted error; None where it is infinite or not known.
        bytes: predicted; [] where not known.
        measured: (rank, error) ascending.
        reduced: (rank, error) of the reduced model; None without, error None where it was not measured.
    """

    name: str
    selective: bool
    order: int
    bound: tuple[float | None, ...]
    bytes: tuple[int, ...]
    measured: tuple[tuple[int, float], ...]
    reduced: tuple[int, float | None] | None


@dataclass(frozen=True)
class Ranks:
    """The slider.

    Attributes:
        ranks: its positions.
        start: index it starts at.
        layers: see `RankLayer`.
        other: bytes of everything but these layers.
        total: bytes of the checkpoint.
        per: what a rank is counted in: system, channel, or either.
        named: what `RankLayer.bound` is called.
        tolerance: of it, for which the summary counts states and at which the slider starts.
    """

    ranks: tuple[int, ...]
    start: int
    layers: tuple[RankLayer, ...]
    other: int
    total: int
    per: str
    named: str
    tolerance: float


@dataclass(frozen=True)
class View:
    """The page.

    Attributes:
        title: heading.  subtitle: which file.
        summary: sentences, the most important first.
        parts: sections in order; `ranks` and `layers` stand after the first.
        provenance: the last section.
    """

    title: str
    subtitle: str
    summary: tuple[str, ...]
    ranks: Ranks | None
    layers: tuple[LayerPart, ...]
    parts: tuple[Part, ...]
    provenance: Part


def grid(
    caption: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Cell | Value]],
    text: Sequence[int] = (0,),
    note: str = "",
    key: str = "",
) -> Grid:
    """A table of plain values. `text`: columns that are no numbers."""
    found = tuple(tuple(value if isinstance(value, Cell) else _cell(value) for value in row) for row in rows)
    heads = tuple(Column(" ".join(name.split()), i not in text) for i, name in enumerate(columns))
    return Grid(caption, heads, found, note, key)


def _cell(value: Value) -> Cell:
    if value is None:
        return Cell("–")
    if isinstance(value, str):
        return Cell(value, value)
    from ssmtool.report.text.diagnose import cell

    return Cell(cell(value), float(value))
