"""One section of a model card, added or replaced."""

from __future__ import annotations

import re

_HEADING = re.compile(r"#{1,2} ")
_FENCE = re.compile(r" {0,3}(```|~~~)")


def with_section(card: str, section: str) -> str:
    """A Markdown text with `section` in it.

    A section of the same heading is replaced where it stands, up to the next heading of level 1 or 2; otherwise
    `section` is appended. Lines inside code fences are not headings.

    Args:
        card: the text; its other lines are kept as they are.
        section: starts with a ``## `` heading.
    """
    newline = "\r\n" if "\r\n" in card else "\n"
    lines = card.splitlines(keepends=True)
    new = newline.join(section.strip().splitlines()) + newline
    headings = _headings(lines)
    heading = section.strip().splitlines()[0].rstrip()
    begin = next((i for i in headings if lines[i].rstrip() == heading), None)
    if begin is None:
        before = card if not card or card.endswith("\n") else card + newline
        return before + (newline if before.strip() else "") + new
    end = next((i for i in headings if i > begin), len(lines))
    gap = newline if end < len(lines) else ""
    return "".join(lines[:begin]) + new + gap + "".join(lines[end:])


def _headings(lines: list[str]) -> list[int]:
    """Numbers of the lines that are headings of level 1 or 2."""
    found, fence = [], ""
    for number, line in enumerate(lines):
        if match := _FENCE.match(line):
            if not fence:
                fence = match[1]
            elif fence == match[1]:
                fence = ""
        elif not fence and _HEADING.match(line):
            found.append(number)
    return found
