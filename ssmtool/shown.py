"""Text of others, as names of layers and files are, made fit to be shown: on a terminal, on a page, in Markdown."""

from __future__ import annotations

import re

NO_BREAK = "\u00a0"

_SPECIAL = frozenset("\\`*_{}[]()#+-!|~$:")
_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;", "@": "@&#8203;"}  # a name after @ would notify its owner
_DOMAIN = re.compile(r"(www)\.", re.IGNORECASE)  # the one place where a dot makes a link
# What means nothing inside a sentence: brackets without a link's text, dashes that begin no list, colons before blanks.
_INNOCENT = re.compile(r"[()]|(?!\A)[-+]|:(?= |\Z)")
_ORDINAL = re.compile(r"\A(\d{1,9})([.)])")  # begins a list


def printable(text: str, keep: str = "") -> str:
    r"""The text with every character that does not print spelled out, \x1b or \u202e.

    A terminal would obey some of them, HTML knows no way to write others, and a name must not look like another one.

    Args:
        keep: characters that stay all the same; a page that is laid out with NO_BREAK says so.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)


def one_line(text: str) -> str:
    """The text on one line, fit for a terminal."""
    return printable(" ".join(text.split()))


def markdown(text: str) -> str:
    """The text as Markdown shows it, in a table too: nothing in it is markup, HTML, a link or a mention."""
    return _marked(printable(text), frozenset())


def markdown_sentence(text: str) -> str:
    """The same for a sentence with names in it, a paragraph, item or cell: with the backslashes it needs, no more."""
    shown = printable(text, NO_BREAK).strip(" ")
    innocent = frozenset(found.start() for found in _INNOCENT.finditer(shown))
    return _ORDINAL.sub(r"\1\\\2", _marked(shown, innocent))


def _marked(text: str, innocent: frozenset[int]) -> str:
    """Entities and backslashes, but not at the places in `innocent`."""
    parts = (
        _ENTITIES.get(c, f"\\{c}" if c in _SPECIAL and place not in innocent else c) for place, c in enumerate(text)
    )
    return _DOMAIN.sub(r"\1\.", "".join(parts))
