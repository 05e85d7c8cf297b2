"""What every output of a check says in the same words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ssmtool.report.text.numbers import plural

if TYPE_CHECKING:
    from ssmtool.checks.findings import Check, Finding

WORDS = {"error": "error", "warning": "warning", "skipped": "skipped", "passed": "passed", "measured": "measured"}
"""Status -> word, the worst first."""


def lined(text: str) -> str:
    """Text of a checkpoint or a path on one line: control characters are spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def grouped(findings: Iterable[Finding]) -> list[list[Finding]]:
    """Findings by entry of the policy, in order."""
    groups: list[list[Finding]] = []
    for finding in findings:
        if groups and groups[-1][0].entry is finding.entry:
            groups[-1].append(finding)
        else:
            groups.append([finding])
    return groups


def skipped_lines(findings: Iterable[Finding]) -> list[str]:
    """What was not evaluated and why, one sentence per rule and reason."""
    layers: dict[tuple[str, str], list[str]] = {}
    for finding in findings:
        if finding.status == "skipped" or (finding.status == "passed" and finding.message):
            layers.setdefault((finding.entry.rule, finding.message), []).append(finding.layer)
    found = []
    for (rule, reason), names in layers.items():
        few = "the model" if names == [""] else ", ".join(map(lined, names[:3]))
        few += f" and {len(names) - 3} more" if len(names) > 3 else ""
        found.append(f"Skipped: {rule}, {lined(reason)} ({few}).")
    return found


def places(check: Check) -> str:
    """Where the policy is from."""
    entries = [entry for entry in check.policy.entries if entry.severity != "off"]
    rules = plural(len({entry.rule for entry in entries}), "rule")
    file = "built-in" if check.policy.file is None else lined(str(check.policy.file))
    return f"{file}, {rules}"


def headline(check: Check) -> str:
    """The verdict in one line."""
    counts = check.counts
    parts = [plural(counts["error"], "error"), plural(counts["warning"], "warning")]
    parts += [f"{counts[s]} {WORDS[s]}" for s in ("skipped", "passed", "measured") if counts[s]]
    verdict = "The policy holds" if check.passed() else "The policy does not hold"
    return f"{verdict}: {', '.join(parts)}."
