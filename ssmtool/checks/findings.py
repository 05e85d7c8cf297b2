"""What a check found: one result per rule and layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ssmtool.checks.limits import Limit
from ssmtool.checks.policy import Entry, Policy
from ssmtool.families._contract import Layer
from ssmtool.pipeline.model import Model

Status = Literal["passed", "error", "warning", "skipped", "measured"]
STATUSES: tuple[Status, ...] = ("error", "warning", "skipped", "passed", "measured")


@dataclass(frozen=True)
class Outcome:
    """One limit and whether it holds.

    Attributes:
        limit: as in the policy.
        bound: as a number, None if it could not be evaluated.
        holds: None likewise.
        text: what is wrong, or why it could not be evaluated; "" if it holds.
    """

    limit: Limit
    bound: float | None
    holds: bool | None
    text: str


@dataclass(frozen=True)
class Finding:
    """One rule on one layer.

    Attributes:
        entry: the rule as the policy has it.
        layer: its name; "" for the model.
        status: "measured" where the entry has no limit.
        title: which number, in words.
        unit: of the number, "" for a share.
        value, whole: the number, and what percentages are of; None where there is none.
        baseline: the number then.
        outcomes: one per limit; empty if there is no number.
        reason: why there is no number; "".
    """

    entry: Entry
    layer: str
    status: Status
    title: str
    unit: str
    value: float | None = None
    whole: float | None = None
    baseline: float | None = None
    outcomes: tuple[Outcome, ...] = ()
    reason: str = ""

    @property
    def broken(self) -> tuple[Outcome, ...]:
        """The limits that do not hold."""
        return tuple(outcome for outcome in self.outcomes if outcome.holds is False)

    @property
    def identifier(self) -> str:
        """Rule and limit that does not hold: order.max."""
        kinds = "+".join(outcome.limit.kind for outcome in self.broken)
        return f"{self.entry.rule}.{kinds}" if kinds else self.entry.rule

    @property
    def message(self) -> str:
        """In words what is wrong, or why it was skipped; "" if nothing is."""
        if self.reason:
            return self.reason
        told = self.broken or tuple(outcome for outcome in self.outcomes if outcome.holds is None)
        return "; ".join(outcome.text for outcome in told)


@dataclass(frozen=True)
class CheckedModel:
    """One model, the layers that the rules were applied to, and what was found."""

    model: Model
    layers: tuple[Layer, ...]
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Check:
    """Result of a check of several models.

    Attributes:
        baseline: path of the document compared with, "" without.
    """

    policy: Policy
    models: tuple[CheckedModel, ...]
    baseline: str

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Of all models."""
        return tuple(finding for checked in self.models for finding in checked.findings)

    @property
    def counts(self) -> Mapping[Status, int]:
        """Findings by status."""
        statuses = [finding.status for finding in self.findings]
        return {status: statuses.count(status) for status in STATUSES}

    def passed(self, strict: bool = False) -> bool:
        """Whether the policy holds; strictly, without warnings."""
        return not self.counts["error"] and not (strict and self.counts["warning"])
