"""Where in a TOML text a value is: tomllib reads the values and says nothing of lines."""

from __future__ import annotations

import re
import sys
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

Place = tuple[str | int, ...]

_PART = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_KEY = rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*"
_TABLE = re.compile(rf"[ \t]*(\[\[?)[ \t]*({_KEY})[ \t]*\]")
_PAIR = re.compile(rf"[ \t]*({_KEY})[ \t]*=")
_TOKEN = re.compile(r'"""|\'\'\'|"(?:[^"\\]|\\.)*"|\'[^\']*\'|#.*|[\[\]{}]')


def lines(text: str) -> dict[Place, int]:
    """Place of every table and pair -> its line, from 1; ("a", 0, "b") is b in the first table of the array a.

    What is inside an inline table or an array has no place of its own: ask for the place around it.

    Args:
        text: valid TOML.
    """
    found: dict[Place, int] = {}
    counts: dict[Place, int] = {}
    table: Place = ()
    rows = text.replace("\r\n", "\n").split("\n")
    number = 0
    while number < len(rows):
        row = rows[number]
        if heading := _TABLE.match(row):
            table = _resolved(_parts(heading[2]), counts)
            if heading[1] == "[[":
                counts[table] = counts.get(table, -1) + 1
                table = (*table, counts[table])
            found.setdefault(table, number + 1)
        elif pair := _PAIR.match(row):
            place = (*table, *_parts(pair[1]))
            for length in range(len(table) + 1, len(place) + 1):
                found.setdefault(place[:length], number + 1)
            number += _further(rows, number, pair.end())
        number += 1
    return found


def line_of(found: dict[Place, int], place: Place) -> int:
    """The line of a place, or of the nearest one around it; 1 if there is none."""
    for length in range(len(place), 0, -1):
        if place[:length] in found:
            return found[place[:length]]
    return 1


def _parts(key: str) -> tuple[str, ...]:
    """The names in a dotted key, quotes undone."""
    value: Any = tomllib.loads(f"{key} = 0")
    parts = []
    while isinstance(value, dict):
        ((name, value),) = value.items()
        parts.append(name)
    return tuple(parts)


def _resolved(parts: tuple[str, ...], counts: dict[Place, int]) -> Place:
    """A heading's place: an array of tables on the way stands for its last table."""
    place: Place = ()
    for i, part in enumerate(parts):
        place = (*place, part)
        if place in counts and i + 1 < len(parts):
            place = (*place, counts[place])
    return place


def _further(rows: list[str], number: int, start: int) -> int:
    """How many more rows a value takes that starts in a row."""
    depth, quote, more = 0, "", 0
    row = rows[number][start:]
    while True:
        while row:
            if quote:
                end = _closing(row, quote)
                if end < 0:
                    break
                row, quote = row[end:], ""
                continue
            token = _TOKEN.search(row)
            if token is None:
                break
            if token[0] in ('"""', "'''"):
                quote = token[0]
            depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
            row = row[token.end() :]
        if (depth <= 0 and not quote) or number + more + 1 >= len(rows):
            return more
        more += 1
        row = rows[number + more]


def _closing(row: str, quote: str) -> int:
    """Where a string of several lines ends in a row, behind its quotes; -1 if it does not."""
    pattern = r'(?:[^"\\]|\\.|"(?!""))*?"{3,5}' if quote == '"""' else r"(?:[^']|'(?!''))*?'{3,5}"
    found = re.match(pattern, row)
    return found.end() if found else -1
