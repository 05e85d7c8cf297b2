"""A check as a JSON document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ssmtool.report import schema
from ssmtool.report.documents import facts, head, source

if TYPE_CHECKING:
    from ssmtool.checks.findings import Check, CheckedModel, Finding
    from ssmtool.checks.policy import Entry


class RuleEntry(schema._Strict):
    rule: str
    severity: str
    scope: str
    layers: list[str]
    keys: dict[str, Any]
    limits: dict[str, float | str]
    origin: str


class PolicyFacts(schema._Strict):
    file: str | None
    rules: list[RuleEntry] = Field(description="in force")


class LimitResult(schema._Strict):
    kind: str
    limit: float | str = Field(description="as in the policy")
    bound: float | None = Field(description="as a number; null if it could not be evaluated")
    holds: bool | None
    text: str


class CheckResult(schema._Strict):
    rule: str
    keys: dict[str, Any]
    scope: str
    title: str
    layer: str = Field(description='"" for the whole model')
    layers: list[str] = Field(description="globs of the entry; empty for all")
    status: str
    value: float | None
    whole: float | None
    unit: str
    baseline: float | None
    limits: list[LimitResult]
    message: str
    origin: str


class CheckedModelFacts(schema._Strict):
    path: str
    sha256: str | None
    layers: list[schema.LayerFacts]
    results: list[CheckResult]


class CheckDocument(schema.Document):
    passed: bool
    counts: dict[str, int]
    policy: PolicyFacts
    baseline: str | None
    models: list[CheckedModelFacts]


def check_document(check: Check, strict: bool, options: Mapping[str, Any]) -> CheckDocument:
    """What `ssmtool check` found."""
    sources = [source(checked.model.checkpoint) for checked in check.models]
    return CheckDocument(
        **head("check", sources, options),
        passed=check.passed(strict),
        counts={str(status): count for status, count in check.counts.items()},
        policy=PolicyFacts(
            file=None if check.policy.file is None else check.policy.name,
            rules=[_entry(entry) for entry in check.policy.entries if entry.severity != "off"],
        ),
        baseline=check.baseline or None,
        models=[_model(checked, file) for checked, file in zip(check.models, sources, strict=True)],
    )


def spelled(amount: float, percent: bool) -> float | str:
    """A limit as a policy has it."""
    if percent:
        return f"{amount:.15g}%"
    return int(amount) if amount == int(amount) else amount


def _entry(entry: Entry) -> RuleEntry:
    return RuleEntry(
        rule=entry.rule,
        severity=entry.severity,
        scope=entry.scope,
        layers=list(entry.layers),
        keys=dict(entry.keys),
        limits={limit.kind: spelled(limit.amount, limit.percent) for limit in entry.limits},
        origin=entry.origin.text,
    )


def _model(checked: CheckedModel, file: schema.Source) -> CheckedModelFacts:
    return CheckedModelFacts(
        path=file.path,
        sha256=file.sha256,
        layers=[schema.LayerFacts(**facts(layer)) for layer in checked.layers],
        results=[_result(finding) for finding in checked.findings],
    )


def _result(finding: Finding) -> CheckResult:
    return CheckResult(
        rule=finding.entry.rule,
        keys=dict(finding.entry.keys),
        scope=finding.entry.scope,
        title=finding.title,
        layer=finding.layer,
        layers=list(finding.entry.layers),
        status=finding.status,
        value=finding.value,
        whole=finding.whole,
        unit=finding.unit,
        baseline=finding.baseline,
        limits=[
            LimitResult(
                kind=outcome.limit.kind,
                limit=spelled(outcome.limit.amount, outcome.limit.percent),
                bound=outcome.bound,
                holds=outcome.holds,
                text=outcome.text,
            )
            for outcome in finding.outcomes
        ],
        message=finding.message,
        origin=finding.entry.origin.text,
    )
