"""The page as a PDF: words and tables on A4 pages, then the pictures, through Matplotlib."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace

from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

from ssmtool.report.drawing import drawing
from ssmtool.report.overview.chart import Chart, Heat, Picture
from ssmtool.report.overview.figures import draw
from ssmtool.report.overview.safe import printable
from ssmtool.report.overview.view import Grid, View

PAGE = (8.27, 11.69)  # inches
_LEFT, _TOP, _BOTTOM = 0.75, 0.75, 0.7
_LINE = 1.35  # of the font's size
_NAME = 34  # characters of a cell, at most
_SMALL = 6.5  # points of a table's text where it is wide
_PER_PAGE = 6  # charts of a page
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
        kind = {"family": [family, "DejaVu Sans"]} if family else {}
        self._figure.text(
            _LEFT / PAGE[0], self._y / PAGE[1], line, fontsize=size, fontweight="bold" if bold else "normal", **kind
        )

    def paragraph(self, words: str, size: float = 9.0, indent: str = "") -> None:
        """Words in lines."""
        width = int(6.7 * 72 / (0.56 * size))
        for k, line in enumerate(textwrap.wrap(printable(words), width - len(indent)) or [""]):
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

    def pictures(self, title: str, pictures: Sequence[Picture]) -> None:
        """A page of pictures of their own, or several."""
        self.turn()
        for start in range(0, len(pictures), _PER_PAGE):
            part = pictures[start : start + _PER_PAGE]
            wide = any(isinstance(picture, Heat) for picture in part)
            figure = draw(part, PAGE[0] - 2 * _LEFT + 0.6, per_row=1 if wide else 2)
            width, height = figure.get_size_inches()
            height = min(height + 0.4, PAGE[1] - 1.2)
            figure.set_size_inches(width, height)
            figure.suptitle(printable(title), x=0.02, ha="left", fontsize=12, fontweight="bold")
            self._pages.savefig(figure)


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
        for title, pictures in _of_layers(view):
            paper.pictures(title, pictures)
        for part in view.parts:
            if part.pictures:
                paper.pictures(part.title, part.pictures)
        paper.turn()
    return out.getvalue()


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
