"""The page as Markdown: words and tables, for model cards, wikis and pull requests."""

from __future__ import annotations

from ssmtool.report.overview.safe import markdown
from ssmtool.report.overview.view import Grid, Part, View


def markdown_text(view: View) -> str:
    """GitHub's dialect, without HTML and without pictures."""
    lines = [f"# {markdown(view.title)}", "", markdown(view.subtitle), ""]
    lines += [f"- {markdown(text)}" for text in view.summary]
    for part in (*view.parts, view.provenance):
        lines += ["", *_part(part)]
    return "\n".join(lines).rstrip() + "\n"


def _part(part: Part) -> list[str]:
    lines = [f"## {markdown(part.title)}", ""]
    for text in part.words:
        lines += [markdown(text), ""]
    if part.points:
        lines += [*(f"- {markdown(text)}" for text in part.points), ""]
    for grid in part.grids:
        if len(part.grids) > 1:
            lines += [f"**{markdown(grid.caption)}**", ""]
        lines += [*_table(grid), ""]
        if grid.note:
            lines += [markdown(grid.note), ""]
    return lines[:-1]


def _table(grid: Grid) -> list[str]:
    head = "| " + " | ".join(markdown(column.name) for column in grid.columns) + " |"
    rule = "|" + "|".join("---:" if column.number else "---" for column in grid.columns) + "|"
    return [head, rule, *("| " + " | ".join(markdown(cell.text) for cell in row) + " |" for row in grid.rows)]
