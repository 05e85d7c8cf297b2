"""What every output of a check says in the same words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ssmtool.checks.words import number
from ssmtool.report.text.numbers import plural
from ssmtool.shown import printable

if TYPE_CHECKING:
    from ssmtool.checks.findings import Check, Finding

WORDS = {"error": "error", "warning": "warning", "skipped": "skipped", "passed": "passed", "measured": "measured"}
"""Status -> word, the worst first."""


def grouped(findings: Iterable[Finding]) -> list[list[Finding]]:
    """Findings by entry of the policy, in order."""
    groups: list[list[Finding]] = []
    for finding in findings:
        if groups and groups[-1][0].entry is finding.entry:
            groups[-1].append(finding)
        else:
            groups.append([finding])
    return groups


def wrong(findings: Iterable[Finding]) -> list[Finding]:
    """Errors, then warnings."""
    listed = list(findings)
    return [finding for status in ("error", "warning") for finding in listed if finding.status == status]


def whole(findings: Iterable[Finding]) -> str:
    """What percentages are of, the largest of the layers; – where there is nothing."""
    found = [(finding.whole, finding.unit) for finding in findings if finding.whole is not None]
    return number(*max(found)) if found else "–"


def tally(findings: Iterable[Finding]) -> str:
    """How many of each status, or the status alone where it is that of all: 1 error, 3 passed."""
    statuses = [finding.status for finding in findings]
    counts = {status: statuses.count(status) for status in WORDS if status in statuses}
    if len(counts) == 1:
        return WORDS[statuses[0]]
    return ", ".join(counted(status, count) for status, count in counts.items())


def counted(status: str, count: int) -> str:
    """2 errors, 3 passed."""
    return plural(count, status) if status in ("error", "warning") else f"{count:,} {WORDS[status]}"


def skipped_lines(findings: Iterable[Finding]) -> list[str]:
    """What was not evaluated and why, one sentence per rule and reason."""
    layers: dict[tuple[str, str], list[str]] = {}
    for finding in findings:
        if finding.status == "skipped" or (finding.status == "passed" and finding.message):
            layers.setdefault((finding.entry.rule, finding.message), []).append(finding.layer)
    found = []
    for (rule, reason), names in layers.items():
        few = "the model" if names == [""] else ", ".join(map(printable, names[:3]))
        few += f" and {len(names) - 3} more" if len(names) > 3 else ""
        found.append(f"Skipped: {rule}, {printable(reason)} ({few}).")
    return found


def places(check: Check) -> str:
    """Where the policy is from."""
    entries = [entry for entry in check.policy.entries if entry.severity != "off"]
    rules = plural(len({entry.rule for entry in entries}), "rule")
    return f"{printable(check.policy.name)}, {rules}"


def headline(check: Check) -> str:
    """The verdict in one line."""
    counts = check.counts
    parts = [counted(status, count) for status, count in counts.items() if count or status in ("error", "warning")]
    verdict = "The policy holds" if check.passed() else "The policy does not hold"
    return f"{verdict}: {', '.join(parts)}."
