"""The page as a PDF: words and tables on A4 pages, then the pictures, through Matplotlib."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

from ssmtool.report.drawing import drawing
from ssmtool.report.overview.chart import Chart, Heat, Picture
from ssmtool.report.overview.figures import fill, in_rows, row_height
from ssmtool.report.overview.view import Grid, View
from ssmtool.shown import NO_BREAK, printable

PAGE = (8.27, 11.69)  # inches
_LEFT, _TOP, _BOTTOM = 0.75, 0.75, 0.7
_LINE = 1.35  # of the font's size
_NAME = 34  # characters of a cell, at most
_SMALL = 6.5  # points of a table's text where it is wide
_WIDTH, _TITLE = PAGE[0] - 1.2, 0.3
_ROW = 2.4  # height of a row of charts, so that two layers have room on a page
_ROOM = PAGE[1] - _TOP - _BOTTOM
_OWN_PAGE = 12  # layers that have a page of their own, at most


class _Paper:
    """Pages that fill from above to below."""

    def __init__(self, pages: PdfPages) -> None:
        self._pages = pages
        self._figure = Figure(figsize=PAGE)
        self._y = PAGE[1] - _TOP
        self._used = False

    def text(self, line: str, size: float = 9.0, bold: bool = False, family: str | None = None) -> None:
        """One line."""
        height = size * _LINE / 72
        if self._y - height < _BOTTOM:
            self.turn()
        self._y -= height
        self._used = True
        written = self._figure.text(_LEFT / PAGE[0], self._y / PAGE[1], line, fontsize=size)
        written.set_fontweight("bold" if bold else "normal")
        if family:
            written.set_fontfamily([family, "DejaVu Sans"])

    def paragraph(self, words: str, size: float = 9.0, indent: str = "") -> None:
        """Words in lines."""
        width = int(6.7 * 72 / (0.56 * size))
        for k, line in enumerate(textwrap.wrap(printable(words, NO_BREAK), width - len(indent)) or [""]):
            self.text((indent if k == 0 else " " * len(indent)) + line, size)

    def space(self, points: float) -> None:
        self._y -= points / 72

    def keep(self, points: float) -> None:
        """Turn the page unless so much is left of it."""
        if self._y - points / 72 < _BOTTOM:
            self.turn()

    def turn(self) -> None:
        """The page is full."""
        if self._used:
            self._pages.savefig(self._figure)
        self._figure, self._y, self._used = Figure(figsize=PAGE), PAGE[1] - _TOP, False


def pdf(view: View) -> bytes:
    """All of the page but what needs a slider. The same view gives the same bytes."""
    out = io.BytesIO()
    with (
        drawing(),
        PdfPages(out, metadata={"Title": printable(view.title), "Creator": "ssmtool", "CreationDate": None}) as pages,
    ):
        paper = _Paper(pages)
        paper.text(printable(view.title)[:60], 16, bold=True)
        paper.space(4)
        paper.paragraph(view.subtitle, 9)
        paper.space(8)
        for sentence in view.summary:
            paper.paragraph(sentence, 10, "• ")
            paper.space(3)
        for part in (*view.parts, view.provenance):
            _heading(paper, part.title)
            for text in part.words:
                paper.paragraph(text)
                paper.space(3)
            for text in part.points:
                paper.paragraph(text, 9, "• ")
            for grid in part.grids:
                _table(paper, grid)
        paper.turn()
        rows: list[_Row] = []
        for title, pictures in _of_layers(view):
            rows += _rows(title, pictures)
        for part in view.parts:
            rows += _rows(part.title, part.pictures)
        for page in _pages(rows):
            pages.savefig(page)
    return out.getvalue()


@dataclass(frozen=True)
class _Row:
    """Pictures beside each other. `title`: above, "" for none."""

    title: str
    pictures: Sequence[Picture]
    columns: int
    height: float


def _rows(title: str, pictures: Sequence[Picture]) -> list[_Row]:
    """Two charts in a row; a heat map has one to itself."""
    columns = 1 if any(isinstance(picture, Heat) for picture in pictures) else 2
    rows = []
    for k, row in enumerate(in_rows(pictures, columns)):
        needed = row_height(row, _WIDTH, columns)
        height = (needed if columns == 1 else min(needed, _ROW)) + (_TITLE if k == 0 else 0.0)
        rows.append(_Row(title if k == 0 else "", row, columns, min(height, _ROOM)))
    return rows


def _pages(rows: Sequence[_Row]) -> Iterator[Figure]:
    """As many rows on a page as it has room for."""
    waiting: list[_Row] = []
    for row in rows:
        if waiting and sum(other.height for other in waiting) + row.height > _ROOM:
            yield _page(waiting)
            waiting = []
        waiting.append(row)
    if waiting:
        yield _page(waiting)


def _page(rows: Sequence[_Row]) -> Figure:
    figure = Figure(figsize=PAGE)
    y = PAGE[1] - _TOP
    for row in rows:
        height = row.height
        if row.title:
            figure.text(_LEFT / PAGE[0], (y - 0.16) / PAGE[1], printable(row.title), fontsize=11, fontweight="bold")
            height -= _TITLE
        width = _WIDTH * len(row.pictures) / row.columns
        fill(figure, row.pictures, len(row.pictures), (_LEFT - 0.15, y - row.height, width, height))
        y -= row.height
    return figure


def _of_layers(view: View) -> list[tuple[str, Sequence[Picture]]]:
    """A page for each layer; where there are many, the decay of each alone, six on a page."""
    drawn = [layer for layer in view.layers if layer.pictures]
    if len(drawn) <= _OWN_PAGE:
        return [(layer.name, layer.pictures) for layer in drawn]
    first = [(layer.name, layer.pictures[0]) for layer in drawn]
    charts = [replace(picture, title=name, note="") for name, picture in first if isinstance(picture, Chart)]
    return [("Decay, layer by layer", charts)]


def _heading(paper: _Paper, title: str) -> None:
    paper.keep(90)
    paper.space(14)
    paper.text(printable(title), 12, bold=True)
    paper.space(4)


def _table(paper: _Paper, grid: Grid) -> None:
    """A table in columns of equal letters."""
    names = [column.name for column in grid.columns]
    rows = [[printable(cell.text) for cell in row] for row in grid.rows]
    two = len(names) == 2 and not grid.columns[1].number  # words, which are wrapped
    rows = [[text if two else _short(text) for text in row] for row in rows]
    widths = [max(len(name), *(len(row[i]) for row in rows)) if rows else len(name) for i, name in enumerate(names)]
    if two:
        widths[1] = min(widths[1], 84)
    total = sum(widths) + 2 * (len(widths) - 1)
    size = max(3.5, min(8.0, 6.75 * 72 / (0.602 * total)))
    paper.keep(4 * size * _LINE + 12)
    paper.space(5)
    paper.text(grid.caption, 8.5, bold=True)

    def line(cells: Sequence[str], bold: bool = False) -> None:
        padded = [
            cell.rjust(width) if column.number else cell.ljust(width)
            for cell, width, column in zip(cells, widths, grid.columns, strict=True)
        ]
        paper.text("  ".join(padded).rstrip(), size, bold, "DejaVu Sans Mono")

    line(names, bold=True)
    for row in rows:
        for cells in _wrapped(row, widths) if two else [row]:
            line(cells)
    if grid.note:
        paper.space(2)
        paper.paragraph(grid.note, 7.5)


def _short(text: str) -> str:
    return text if len(text) <= _NAME else text[: _NAME // 2 - 1] + "…" + text[-_NAME // 2 :]


def _wrapped(row: Sequence[str], widths: Sequence[int]) -> Iterator[list[str]]:
    for k, part in enumerate(textwrap.wrap(row[1], widths[1]) or [""]):
        yield [row[0] if k == 0 else "", part]
