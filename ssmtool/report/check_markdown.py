"""A check as Markdown: for a comment, or the summary of a CI job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssmtool.checks.words import limit_text, number
from ssmtool.report.check_facts import WORDS, grouped, headline, places, skipped_lines, tally, whole, wrong
from ssmtool.shown import markdown

if TYPE_CHECKING:
    from ssmtool.checks.findings import Check, CheckedModel

MOST = 200  # findings listed: a step's summary may have 1 MiB
_SIGNS = {"error": "❌", "warning": "⚠️", "skipped": "➖", "passed": "✅", "measured": "📏"}


def check_markdown(check: Check) -> str:
    """The verdict, then findings and a table of the rules per model."""
    rows = ["## ssmtool check", "", f"**{headline(check)}**", "", f"Policy: {markdown(places(check))}"]
    if check.baseline:
        rows[-1] += f". Baseline: {markdown(check.baseline)}"
    for checked in check.models:
        rows += ["", f"### {markdown(str(checked.model.checkpoint.path))}", *_model(checked)]
    return "\n".join(rows) + "\n"


def _model(checked: CheckedModel) -> list[str]:
    listed = wrong(checked.findings)
    rows = []
    if listed:
        rows += ["", "| | rule | layer | found |", "|---|---|---|---|"]
        for finding in listed[:MOST]:
            found = markdown(f"{finding.title}: {finding.message}")
            layer = markdown(finding.layer) or "*model*"
            rows.append(f"| {_SIGNS[finding.status]} | {markdown(finding.identifier)} | {layer} | {found} |")
        if len(listed) > MOST:
            rows.append(f"| | | | and {len(listed) - MOST} more |")
    rows += [
        "",
        "| | rule | number | layers | least | largest | of | limits |",
        "|---|---|---|---:|---:|---:|---:|---|",
    ]
    for findings in grouped(checked.findings):
        entry, first = findings[0].entry, findings[0]
        worst = next(status for status in WORDS if any(finding.status == status for finding in findings))
        values = [finding.value for finding in findings if finding.value is not None]
        least, largest = (number(f(values), first.unit) if values else "–" for f in (min, max))
        layers = "model" if entry.scope == "model" else str(len(findings))
        limits = ", ".join(map(limit_text, entry.limits)) or "–"
        rows.append(
            f"| {_SIGNS[worst]} {tally(findings)} | {markdown(entry.rule)} | {markdown(first.title)} | {layers} "
            f"| {least} | {largest} | {whole(findings)} | {limits} |"
        )
    for line in skipped_lines(checked.findings):
        rows += ["", markdown(line)]
    return rows
