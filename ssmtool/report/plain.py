"""Names as pictures show them."""

from __future__ import annotations

from ssmtool.shown import printable


def plain(text: str) -> str:
    """A name as Matplotlib draws it letter by letter: dollar signs begin no formula, what does not print is spelled."""
    return printable(text).replace("$", r"\$")
