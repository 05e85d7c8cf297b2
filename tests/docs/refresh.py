"""Writes what commands print today into the pages: python -m tests.docs.refresh docs/hsv.md docs/compress.md

For every command whose output a page shows and that now prints something else. Outputs shown in part (with a line
"...") are reported and left. Read the difference before it is committed: it is what changed for the reader.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.docs.alike import GAPS, difference
from tests.docs.blocks import TOP, blocks, steps
from tests.docs.desk import Desk


def refresh(page: str, desk: Desk) -> None:
    """Replace the outputs in one page."""
    text = (TOP / page).read_text(encoding="utf-8")
    for block in blocks(page):
        if block.kind != "console" or "skip" in block.marks:
            continue
        for step in steps(block):
            if step.shown is None or not step.line.startswith("ssmtool"):
                continue
            _, came = desk.run(page, step.line)
            wrong = difference(step.shown, came, block.marks.get("varies", ""))
            if wrong is None:
                continue
            if any(line.strip() in GAPS for line in step.shown.split("\n")):
                print(f"{block.name}: $ {step.line}\n{wrong}")
                continue
            # In an indented block the lines of the page have four spaces more than the output.
            for margin in ("", "    "):
                pieces = ("$ " + step.line + "\n" + output.strip("\n") for output in (step.shown, came))
                old, new = (_indent(piece, margin) for piece in pieces)
                if text.count(old) == 1:
                    text = text.replace(old, new)
                    print(f"{block.name}: $ {step.line}: written")
                    break
            else:
                print(f"{block.name}: $ {step.line}: not written, its lines are not in the page as they are, or twice")
    (TOP / page).write_text(text, encoding="utf-8")


def _indent(text: str, margin: str) -> str:
    return "\n".join(margin + line.rstrip() if line.strip() else "" for line in text.split("\n"))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        desk = Desk(Path(folder))
        for page in sys.argv[1:]:
            refresh(page, desk)
