"""Hold opened models against a policy: measure what its rules need, judge it, compare it with what it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ssmtool import plugins
from ssmtool.cache import digest
from ssmtool.checks.baseline import Baseline, Recorded
from ssmtool.checks.findings import Check, CheckedModel, Finding, Outcome, Status
from ssmtool.checks.kept import find_number, keep_number, tokens_key
from ssmtool.checks.policy import Entry, Policy
from ssmtool.checks.rules._contract import NEEDS_TOKENS, Measurement, Unmeasured
from ssmtool.checks.subject import Bench, Step, Subject
from ssmtool.checks.words import outcome_text
from ssmtool.errors import UsageError
from ssmtool.pipeline.model import matching

if TYPE_CHECKING:
    from ssmtool.cache import Cache
    from ssmtool.families._contract import Layer
    from ssmtool.pipeline.model import Model
    from ssmtool.pipeline.tokens import TokenSource

RULES = "ssmtool.checks.rules"

Found = Measurement | Unmeasured


def check(
    models: Sequence[Model],
    policy: Policy,
    *,
    cache: Cache,
    source: TokenSource | None = None,
    baseline: Baseline | None = None,
    device: str = "auto",
    jobs: int = 1,
    step: Step = lambda label, done, total, unit: None,
) -> Check:
    """Check models against a policy.

    Args:
        models: from `load`.
        policy: from `read_policy`.
        cache: numbers measured before.
        source: where tokens for selective layers are from.
        baseline: an earlier document, for limits on changes.
        device: "auto", "cpu" or "cuda".
        jobs: layers at a time.
        step: called with (label, done, total, unit).

    Raises:
        UsageError: a glob that no layer of any model matches, a baseline that knows none of the layers.
        CheckpointError, FamilyError: tensors that cannot be read or understood.
    """
    checked = []
    used: set[Entry] = set()
    for model in models:
        bench = Bench(model, cache, source, device, jobs, step)
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
    module = plugins.load(RULES, entry.rule)
    keys = dict(entry.keys)
    found = _measured(bench, module, entry, keys, layers)
    if entry.scope == "model":
        if not layers:
            return []
        now, then = _together(found), _recalled_model(module, entry, keys, layers, recorded)
        return [_finding(module, entry, "", now, then, recorded is not None, policy)]
    findings = []
    for layer in layers:
        then = None if recorded is None else _recalled(module, entry, keys, layer.name, recorded)
        findings.append(_finding(module, entry, layer.name, found[layer.name], then, recorded is not None, policy))
    return findings


def _measured(
    bench: Bench, module: ModuleType, entry: Entry, keys: dict[str, Any], layers: Sequence[Layer]
) -> dict[str, Found]:
    """The number of every layer, or why there is none: from the cache where it is known."""
    found: dict[str, Found] = {}
    pending: list[tuple[Layer, str]] = []
    total = entry.scope == "model"
    for layer in layers:
        basis = module.basis(layer, keys)
        if basis == "tokens" and bench.source is None:
            found[layer.name] = Unmeasured(NEEDS_TOKENS)
            continue
        key = ""
        if basis != "reduction":  # which has a key of its own, for all of its layers
            key = _key(bench, entry, module.VERSION, basis, keys, layer)
            known = find_number(bench.cache, key)
            if known is not None:
                found[layer.name] = known
                continue
        pending.append((layer, key))
    bench.prepare([layer for layer, _ in pending if module.basis(layer, keys) == "spectrum"])
    for layer, key in pending:
        try:
            found[layer.name] = module.measure(Subject(layer, tuple(layers), total, bench), keys)
        except Unmeasured as reason:
            found[layer.name] = reason
        if key:
            keep_number(bench.cache, key, found[layer.name])
    return found


def _key(bench: Bench, entry: Entry, version: int, basis: str, keys: dict[str, Any], layer: Layer) -> str:
    parts = (keys, entry.scope, bench.model.content(layer))
    if basis == "tokens":
        assert bench.source is not None
        parts = (*parts, layer.name, tokens_key(bench.model, bench.source))
    return digest(f"check {entry.rule}", version, *parts)


def _together(found: Mapping[str, Found]) -> Found:
    """The sum over layers; unknown if one of them is."""
    value = whole = 0.0
    for name, one in found.items():
        if isinstance(one, Unmeasured):
            return Unmeasured(f"{name}: {one}")
        value += one.value
        whole += one.whole or 0.0
    return Measurement(value, whole)


def _recalled(
    module: ModuleType, entry: Entry, keys: dict[str, Any], layer: str, recorded: Recorded
) -> Measurement | None:
    """The number of a layer in the baseline."""
    record = recorded.layers.get(layer)
    if record is None:
        return None
    for result in record.results:
        if (result.rule, result.scope) == (entry.rule, entry.scope) and result.keys == keys:
            return None if result.value is None else Measurement(result.value, result.whole)
    return module.recall(replace(record, total=entry.scope == "model"), keys)


def _recalled_model(
    module: ModuleType, entry: Entry, keys: dict[str, Any], layers: Sequence[Layer], recorded: Recorded | None
) -> Measurement | None:
    """The number of a model in the baseline: its own result, or the sum over the same layers."""
    if recorded is None:
        return None
    for result in recorded.results:
        if result.rule == entry.rule and result.keys == keys and result.value is not None:
            return Measurement(result.value, result.whole)
    found = [_recalled(module, entry, keys, layer.name, recorded) for layer in layers]
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
    skipped: Status = {"note": "skipped", "warn": "warning", "error": "error"}[policy.value("skipped")]
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
