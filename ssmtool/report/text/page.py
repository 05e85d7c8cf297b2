"""A page of text made of lines and tables, rendered for a terminal or for a pipe."""

from __future__ import annotations

import io
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ssmtool.shown import printable

WIDEST = 10_000  # columns of a "terminal" that is a pipe: nothing is wrapped or cut
TEXT_WIDTH = 100  # of paragraphs, at most
NAME_WIDTH, TEXT_COLUMN = 12, 9  # narrowest first column and other columns of text


class Page:
    """Lines and tables in the order they are added.

    In a terminal, tables fit its width (long layer names wrap) and a few things are coloured, unless NO_COLOR is set.
    In a pipe or a file there are no colours, no box and no wrapping of tables, so that grep and awk see whole names.

    Args:
        terminal: whether the text is for a terminal; by default whether standard output is one.
    """

    def __init__(self, terminal: bool | None = None) -> None:
        self._terminal = sys.stdout.isatty() if terminal is None else terminal
        self._columns = shutil.get_terminal_size((80, 24)).columns if self._terminal else WIDEST
        self._text_width = min(self._columns, TEXT_WIDTH) if self._terminal else 80
        self._buffer = io.StringIO()
        self._console = Console(
            file=self._buffer,
            width=WIDEST,
            force_terminal=self._terminal,
            color_system="auto" if self._terminal and "NO_COLOR" not in os.environ else None,
            markup=False,
            highlight=False,
            emoji=False,
            legacy_windows=False,
        )

    def line(self, text: str = "", style: str = "") -> None:
        """One line, as it is."""
        self._console.print(Text(printable(text), style=style), soft_wrap=True)

    def paragraph(self, text: str, hang: str = "") -> None:
        """Text wrapped at words; further lines start with `hang`."""
        for row in textwrap.wrap(
            text, self._text_width, subsequent_indent=hang, break_long_words=False, break_on_hyphens=False
        ):
            self.line(row)

    def table(
        self,
        columns: Sequence[str],
        rows: Iterable[Sequence[str | Text]],
        left: Sequence[int] = (0,),
        *,
        top: bool = False,
    ) -> None:
        """A table.

        Args:
            columns: headings; a line break makes two lines of one.
            rows: cells.
            left: columns of text, aligned left; the others are numbers.
            top: rows start on one line where a cell takes several; by default they end on one.
        """
        cells = [[printable(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
        table = Table(
            box=box.SIMPLE_HEAD if self._terminal else None,
            padding=0 if self._terminal else (0, 2, 0, 0),
            pad_edge=False,
            show_edge=False,
            header_style="bold",
        )
        least = len(columns) - 1
        for i, heading in enumerate(columns):
            # names and other text give way where the terminal is narrow; numbers never
            widest = max(map(len, [*heading.split("\n"), *(str(row[i]) for row in cells)]))
            needed = min(widest, NAME_WIDTH if i == 0 else TEXT_COLUMN) if i in left else widest
            least += needed
            table.add_column(
                heading,
                justify="left" if i in left else "right",
                overflow="fold",
                no_wrap=i not in left,
                min_width=needed,
                vertical="top" if top else "bottom",
            )
        for row in cells:
            table.add_row(*row)
        # rich leaves out columns that do not fit: rather let the terminal break lines
        self._console.print(table, width=max(self._columns, least))

    def text(self) -> str:
        """The page, without blanks at the ends of lines."""
        return "\n".join(row.rstrip() for row in self._buffer.getvalue().rstrip().splitlines()) + "\n"


def verdict(good: bool, yes: str, no: str) -> Text:
    """A word that says whether something holds, in words and in colour."""
    return Text(yes if good else no, style="green" if good else "bold red")
