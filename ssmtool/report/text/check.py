"""A check as text: what was found, then every rule in one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from ssmtool.checks.words import limit_text, number
from ssmtool.report.check_facts import WORDS, grouped, headline, places, skipped_lines, tally, whole, wrong
from ssmtool.report.text.page import Page
from ssmtool.shown import printable

if TYPE_CHECKING:
    from ssmtool.checks.findings import Check, CheckedModel, Finding

_STYLES = {"error": "bold red", "warning": "yellow", "passed": "green"}


def check_text(check: Check, terminal: bool | None = None) -> str:
    """Findings of every model, a table of the rules, and the verdict."""
    page = Page(terminal)
    for checked in check.models:
        _add_model(page, checked)
        page.line()
    page.line(f"Policy: {places(check)}")
    if check.baseline:
        page.line(f"Baseline: {printable(check.baseline)}")
    page.line(headline(check), "bold red" if check.counts["error"] else "bold")
    return page.text()


def _add_model(page: Page, checked: CheckedModel) -> None:
    page.line(printable(str(checked.model.checkpoint.path)), "bold")
    listed = wrong(checked.findings)
    if listed:
        page.line()
        page.table(("", "rule", "layer", "found"), [_row(finding) for finding in listed], left=(0, 1, 2, 3), top=True)
    page.line()
    columns = ("rule", "number", "layers", "least", "largest", "of", "limits", "")
    page.table(columns, [_summary(findings) for findings in grouped(checked.findings)], left=(0, 1, 6, 7), top=True)
    skipped = skipped_lines(checked.findings)
    if skipped:
        page.line()
    for line in skipped:
        page.paragraph(line, hang="  ")


def _row(finding: Finding) -> list[str | Text]:
    status = Text(WORDS[finding.status], style=_STYLES[finding.status])
    return [
        status,
        finding.identifier,
        printable(finding.layer or "(model)"),
        f"{finding.title}: {printable(finding.message)}",
    ]


def _summary(findings: Sequence[Finding]) -> list[str | Text]:
    """One entry of the policy on one model."""
    entry, first = findings[0].entry, findings[0]
    values = [finding.value for finding in findings if finding.value is not None]
    limits = ", ".join(map(limit_text, entry.limits)) or "–"
    worst = next(status for status in WORDS if any(finding.status == status for finding in findings))
    return [
        entry.rule,
        first.title,
        "model" if entry.scope == "model" else str(len(findings)),
        number(min(values), first.unit) if values else "–",
        number(max(values), first.unit) if values else "–",
        whole(findings),
        limits,
        Text(tally(findings), style=_STYLES.get(worst, "")),
    ]
