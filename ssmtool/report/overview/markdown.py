"""The page as Markdown: words and tables, for model cards, wikis and pull requests."""

from __future__ import annotations

from ssmtool.report.overview.view import Grid, Part, View
from ssmtool.shown import markdown_sentence


def markdown_text(view: View) -> str:
    """GitHub's dialect, without HTML and without pictures."""
    lines = [f"# {markdown_sentence(view.title)}", "", markdown_sentence(view.subtitle), ""]
    lines += [f"- {markdown_sentence(text)}" for text in view.summary]
    for part in (*view.parts, view.provenance):
        lines += ["", *_part(part)]
    return "\n".join(lines).rstrip() + "\n"


def _part(part: Part) -> list[str]:
    lines = [f"## {markdown_sentence(part.title)}", ""]
    for text in part.words:
        lines += [markdown_sentence(text), ""]
    if part.points:
        lines += [*(f"- {markdown_sentence(text)}" for text in part.points), ""]
    for grid in part.grids:
        if len(part.grids) > 1:
            lines += [f"**{markdown_sentence(grid.caption)}**", ""]
        lines += [*_table(grid), ""]
        if grid.note:
            lines += [markdown_sentence(grid.note), ""]
    return lines[:-1]


def _table(grid: Grid) -> list[str]:
    head = "| " + " | ".join(markdown_sentence(column.name) for column in grid.columns) + " |"
    rule = "|" + "|".join("---:" if column.number else "---" for column in grid.columns) + "|"
    return [head, rule, *("| " + " | ".join(markdown_sentence(cell.text) for cell in row) + " |" for row in grid.rows)]
