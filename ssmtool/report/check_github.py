"""A check as workflow commands of GitHub Actions: one annotation per finding.

Source: docs.github.com, "Workflow commands for GitHub Actions", and the escapes of the Actions toolkit: %, carriage
return and line feed in a message; those, ":" and "," in a property.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssmtool.report.check_facts import skipped_lines, wrong
from ssmtool.report.text.numbers import plural
from ssmtool.shown import printable

if TYPE_CHECKING:
    from ssmtool.checks.findings import Check, Finding

MOST = 10  # annotations of a level that GitHub shows per step


def check_github(check: Check) -> str:
    """Annotations, at most ten of a level: where there are more, the tenth says how many."""
    found: dict[str, list[str]] = {"error": [], "warning": [], "notice": []}
    for checked in check.models:
        path = str(checked.model.checkpoint.path)
        for finding in wrong(checked.findings):
            found[finding.status].append(_annotation(finding.status, path, finding))
        found["notice"] += [
            command("notice", line, file=path, title="ssmtool check") for line in skipped_lines(checked.findings)
        ]
    lines = []
    for level, commands in found.items():
        if len(commands) > MOST:
            rest = plural(len(commands) - MOST + 1, f"more {level}")
            commands = [*commands[: MOST - 1], command(level, f"{rest}: see the summary", title="ssmtool check")]
        lines += commands
    return "\n".join(lines)


def command(name: str, message: str, **properties: str) -> str:
    """One workflow command on one line."""
    listed = ",".join(f"{key}={_escaped(value, True)}" for key, value in properties.items())
    return f"::{name} {listed}::{_escaped(message)}"


def _annotation(level: str, path: str, finding: Finding) -> str:
    layer = printable(finding.layer) or "model"
    message = f"{layer}: {finding.title}: {printable(finding.message)} ({finding.entry.origin.text})"
    return command(level, message, file=path, title=f"ssmtool {finding.identifier}")


def _escaped(text: str, in_property: bool = False) -> str:
    """Percent signs first, or the escapes would be escaped."""
    text = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return text.replace(":", "%3A").replace(",", "%2C") if in_property else text
