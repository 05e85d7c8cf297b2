"""What a reader could type, taken out of the Markdown pages: blocks of commands and of Python, and commands in a line.

A block is fenced (```console, ```bash, ```python) or indented by four spaces. HTML comments in the lines just above it
say what the reader does not see:

    <!-- skip: REASON -->           not run
    <!-- varies: REGEX -->          lines that match are not compared
    <!-- exit: CODE -->             exit code of the last command, 0 if not given
    <!-- before: PYTHON -->         run before a Python block; may go over several lines
    <!-- file: NAME -->             a block of Python or text is also saved under this name
    <!-- from: COMMAND -->          a block of text is part of what this command prints
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.docs.marks import FROM_OUTSIDE

TOP = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "fixtures/README.md")
FENCE = re.compile(r"^( *)```(\w*)")
COMMENT = re.compile(r"<!-- *(skip|varies|exit|before|file|from): *(.*?) *-->", re.DOTALL)
SPAN = re.compile(r"(?<!`)`(ssmtool [^`]+)`(?!`)")
LANGUAGES = {"console": "console", "bash": "console", "sh": "console", "shell": "console", "python": "python"}


@dataclass(frozen=True)
class Block:
    """A piece of a page.

    Attributes:
        page: path from the top of the repository.
        line: of its first line, from 1.
        kind: "console", "python", "span" (a command inside a sentence) or "text" (nothing to type).
        text: without indentation and fences.
        marks: of the comments above it.
    """

    page: str
    line: int
    kind: str
    text: str
    marks: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Step:
    """A command line and what the page shows below it; `shown` is None where it shows nothing, not even "no output"."""

    line: str
    shown: str | None


def pages() -> list[str]:
    """All pages that are tested, from the top of the repository."""
    found = sorted(str(path.relative_to(TOP)) for path in (TOP / "docs").rglob("*.md"))
    return [page for page in PAGES if (TOP / page).is_file()] + found


def blocks(page: str) -> list[Block]:
    found = read(page, (TOP / page).read_text(encoding="utf-8"))
    return [replace(block, marks={**_outside(block), **block.marks}) for block in found]


def _outside(block: Block) -> dict[str, str]:
    found = (marks for (page, part), marks in FROM_OUTSIDE.items() if page == block.page and part in block.text)
    return next(found, {})


def read(page: str, text: str) -> Iterator[Block]:
    """The blocks of a page in order, and the commands in its sentences."""
    lines = text.split("\n")
    marks: dict[str, str] = {}
    at = 0
    while at < len(lines):
        line = lines[at]
        if line.lstrip().startswith("<!--"):
            end = next((i for i in range(at, len(lines)) if "-->" in lines[i]), at)
            found = COMMENT.search("\n".join(lines[at : end + 1]))
            if found:
                marks[found[1]] = textwrap.dedent(found[2]).strip("\n")
            at = end + 1
            continue
        fence = FENCE.match(line)
        if fence:
            end = next(i for i in range(at + 1, len(lines)) if lines[i].strip() == "```")
            body = textwrap.dedent("\n".join(lines[at + 1 : end]))
            yield Block(page, at + 2, LANGUAGES.get(fence[2], "text"), body, marks)
            marks, at = {}, end + 1
            continue
        if _indented(lines, at):
            end = at
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            body = textwrap.dedent("\n".join(lines[at:end])).rstrip("\n")
            yield Block(page, at + 1, _kind(body), body, marks)
            marks, at = {}, end
            continue
        if line.strip():
            for span in SPAN.finditer(line):
                yield Block(page, at + 1, "span", span[1], marks)
            marks = {}
        at += 1


def _indented(lines: list[str], at: int) -> bool:
    """A line that starts an indented block: after a blank line, and no continuation of a list."""
    if not lines[at].startswith("    ") or (
        at and lines[at - 1].strip() and not lines[at - 1].lstrip().startswith("<!--")
    ):
        return False
    above = next((line for line in reversed(lines[:at]) if line.strip() and not line.startswith("    ")), "")
    return not re.match(r"^([-*]|\d+\.) ", above)


def _kind(body: str) -> str:
    return "console" if re.match(r"(\$ |ssmtool |python |make |pip )", body.lstrip()) else "text"


def steps(block: Block) -> list[Step]:
    """The command lines of a console block, in order.

    After "$ " comes a command, and below it what it prints. Before the first "$ ", or where there is none, every line
    is a command; lines indented under it go on with it.
    """
    plain, mark, rest = ("\n" + block.text).partition("\n$ ")
    joined = re.sub(r"\\?\n\s+", " ", plain.strip("\n"))
    found = [Step(line, None) for line in joined.split("\n") if line.strip()]
    for part in rest.split("\n$ ") if mark else ():
        command, _, shown = re.sub(r"\\\n\s*", "", part).partition("\n")
        found.append(Step(command, shown.strip("\n") or None))
    return found
