"""Hold opened models against a policy: measure what its rules need, judge it, compare it with what it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ssmtool.checks.findings import Check, CheckedModel, Finding, Outcome, Status
from ssmtool.checks.measure import Found, measured, recalled, rule_module
from ssmtool.checks.policy import Entry, Policy
from ssmtool.checks.rules._contract import Measurement, Unmeasured
from ssmtool.checks.subject import Bench
from ssmtool.checks.words import outcome_text
from ssmtool.errors import UsageError
from ssmtool.pipeline.engines import local
from ssmtool.pipeline.model import matching
from ssmtool.pipeline.steps import Step, no_step

if TYPE_CHECKING:
    from ssmtool.cache import Cache
    from ssmtool.checks.baseline import Baseline, Recorded
    from ssmtool.families._contract import Layer
    from ssmtool.pipeline.engines._contract import Engine
    from ssmtool.pipeline.model import Model
    from ssmtool.pipeline.tokens import TokenSource

_SKIPPED: Mapping[str, Status] = {"note": "skipped", "warn": "warning", "error": "error"}


def check(
    models: Sequence[Model],
    policy: Policy,
    *,
    cache: Cache,
    source: TokenSource | None = None,
    baseline: Baseline | None = None,
    device: str = "auto",
    engine: Engine | None = None,
    step: Step = no_step,
) -> Check:
    """Check models against a policy.

    Args:
        models: from `load`.
        policy: from `read_policy`.
        cache: numbers measured before.
        source: where tokens for selective layers are from.
        baseline: an earlier document, for limits on changes.
        device: "auto", "cpu" or "cuda".
        engine: where layers are worked on; this process by default.
        step: called with (label, done, total, unit).

    Raises:
        UsageError: a glob that no layer of any model matches, a baseline that knows none of the layers.
        CheckpointError, FamilyError: tensors that cannot be read or understood.
    """
    checked = []
    used: set[Entry] = set()
    for model in models:
        bench = Bench(model, cache, source, device, engine or local(), step)
        recorded = None if baseline is None else _recorded(baseline, model)
        layers = matching(model.layers, policy.value("layers"))
        findings = []
        for entry, names in policy.applied([layer.name for layer in layers]):
            if names:
                used.add(entry)
            findings += _entry(bench, entry, [layer for layer in layers if layer.name in names], recorded, policy)
        checked.append(CheckedModel(model, layers, tuple(findings)))
    for entry, _ in policy.applied([]):
        if entry not in used and entry.layers and not any(map(entry.matches, _names(models))):
            known = ", ".join(_names(models))
            raise UsageError(
                f"{entry.rule}: no layer matches {', '.join(map(repr, entry.layers))}",
                where=entry.origin.text,
                remedy=f"Layers: {known}",
            )
    return Check(policy, tuple(checked), "" if baseline is None else baseline.path)


def _names(models: Sequence[Model]) -> list[str]:
    return [layer.name for model in models for layer in model.layers]


def _recorded(baseline: Baseline, model: Model) -> Recorded:
    """What the baseline knows of a model. Raises UsageError if that is nothing."""
    found = baseline.of(str(model.checkpoint.path))
    names = [layer.name for layer in model.layers]
    if found is None or not set(names) & set(found.layers):
        seen = "models " + ", ".join(m.path for m in baseline.models) if found is None else _few(list(found.layers))
        raise UsageError(
            f"the baseline knows no layer of {model.checkpoint.path}: it has {seen or 'none'}",
            where=baseline.path,
            remedy="Give a document of this model or of an earlier one",
        )
    return found


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _entry(
    bench: Bench, entry: Entry, layers: Sequence[Layer], recorded: Recorded | None, policy: Policy
) -> list[Finding]:
    """Findings of one entry on one model."""
    module = rule_module(entry.rule)
    keys = dict(entry.keys)
    found = measured(bench, entry.rule, keys, layers, entry.scope)
    if entry.scope == "model":
        if not layers:
            return []
        now, then = _together(found), _recalled_model(entry, keys, layers, recorded)
        return [_finding(module, entry, "", now, then, recorded is not None, policy)]
    findings = []
    for layer in layers:
        record = None if recorded is None else recorded.layers.get(layer.name)
        then = None if record is None else recalled(entry.rule, keys, entry.scope, record)
        findings.append(_finding(module, entry, layer.name, found[layer.name], then, recorded is not None, policy))
    return findings


def _together(found: Mapping[str, Found]) -> Found:
    """The sum over layers; unknown if one of them is."""
    value = whole = 0.0
    for name, one in found.items():
        if isinstance(one, Unmeasured):
            return Unmeasured(f"{name}: {one}")
        value += one.value
        whole += one.whole or 0.0
    return Measurement(value, whole)


def _recalled_model(
    entry: Entry, keys: dict[str, Any], layers: Sequence[Layer], recorded: Recorded | None
) -> Measurement | None:
    """The number of a model in the baseline: its own result, or the sum over the same layers."""
    if recorded is None:
        return None
    for result in recorded.results:
        same = (result.rule, result.keys, result.layers) == (entry.rule, keys, list(entry.layers))
        if same and result.value is not None:
            return Measurement(result.value, result.whole)
    records = [recorded.layers.get(layer.name) for layer in layers]
    found = [None if record is None else recalled(entry.rule, keys, "model", record) for record in records]
    return None if any(one is None for one in found) else Measurement(sum(one.value for one in found if one))


def _finding(
    module: ModuleType,
    entry: Entry,
    layer: str,
    now: Found,
    then: Measurement | None,
    compared: bool,
    policy: Policy,
) -> Finding:
    """The number judged."""
    keys = dict(entry.keys)
    title, unit = module.title(keys), keys.get("of", module.UNIT)
    was = None if then is None else then.value
    skipped = _SKIPPED[policy.value("skipped")]
    if isinstance(now, Unmeasured):
        return Finding(entry, layer, skipped, title, unit, baseline=was, reason=str(now))
    outcomes = tuple(_outcome(limit, now, was, compared, unit) for limit in entry.limits)
    status: Status = "passed" if outcomes else "measured"
    unknown = [outcome for outcome in outcomes if outcome.holds is None]
    if unknown and (len(unknown) == len(outcomes) or skipped != "skipped"):
        status = skipped
    if any(outcome.holds is False for outcome in outcomes):
        status = "error" if entry.severity == "error" else "warning"
    return Finding(entry, layer, status, title, unit, now.value, now.whole, was, outcomes)


def _outcome(limit: Any, now: Measurement, was: float | None, compared: bool, unit: str) -> Outcome:
    bound = limit.bound(now.whole, was)
    holds = None if bound is None else limit.holds(now.value, bound)
    return Outcome(limit, bound, holds, outcome_text(limit, now, was, holds, compared, unit))
