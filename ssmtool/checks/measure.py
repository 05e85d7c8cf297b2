"""The number of a rule, measured on layers of an opened model, or recalled from an earlier document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ssmtool import plugins
from ssmtool.cache import digest
from ssmtool.checks.kept import SOURCES, VERSION, find_number, keep_number, tokens_key
from ssmtool.checks.policy import Scope
from ssmtool.checks.rules._contract import NEEDS_TOKENS, Basis, Measurement, Unmeasured
from ssmtool.checks.subject import Bench, Subject
from ssmtool.sources import version_of

if TYPE_CHECKING:
    from ssmtool.checks.record import Record
    from ssmtool.families._contract import Layer

RULES = "ssmtool.checks.rules"

Found = Measurement | Unmeasured


def rule_module(rule: str) -> ModuleType:
    """The file of a rule."""
    return plugins.load(RULES, rule)


def measured(
    bench: Bench, rule: str, keys: Mapping[str, Any], layers: Sequence[Layer], scope: Scope = "layer"
) -> dict[str, Found]:
    """The number of every layer by name, or why there is none: from the cache where it is known.

    Args:
        bench: the model.
        rule: its id.
        keys: which number.
        layers: what compress would reduce together.
        scope: for "model", numbers that add up: sums over the systems.
    """
    module = rule_module(rule)
    found: dict[str, Found] = {}
    pending: list[tuple[Layer, str]] = []
    for layer in layers:
        basis = module.basis(layer, keys)
        if basis == "tokens" and bench.source is None:
            found[layer.name] = Unmeasured(NEEDS_TOKENS)
            continue
        key = ""
        if basis != "reduction":  # which is kept for all of its layers at once
            key = _key(bench, rule, basis, keys, layer, scope)
            known = find_number(bench.cache, key)
            if known is not None:
                found[layer.name] = known
                continue
        pending.append((layer, key))
    bench.prepare([layer for layer, _ in pending if module.basis(layer, keys) == "spectrum"])
    for layer, key in pending:
        try:
            found[layer.name] = module.measure(Subject(layer, tuple(layers), scope == "model", bench), keys)
        except Unmeasured as reason:
            found[layer.name] = reason
        if key and key == _key(bench, rule, module.basis(layer, keys), keys, layer, scope):  # nobody wrote to it
            keep_number(bench.cache, key, found[layer.name])
    return {layer.name: found[layer.name] for layer in layers}


def _key(bench: Bench, rule: str, basis: Basis, keys: Mapping[str, Any], layer: Layer, scope: Scope) -> str:
    """Under which the number is kept."""
    parts: tuple[Any, ...] = (version_of(*SOURCES), keys, scope, bench.device, bench.model.content(layer))
    if basis == "tokens":
        assert bench.source is not None
        parts = (*parts, layer.name, tokens_key(bench.model, bench.source))
    return digest(f"check {rule}", VERSION, *parts)


def recalled(rule: str, keys: Mapping[str, Any], scope: Scope, record: Record) -> Measurement | None:
    """The number of a layer in a document; None where it does not have it."""
    for result in record.results:
        if (result.rule, result.scope, result.keys) == (rule, scope, keys):
            return None if result.value is None else Measurement(result.value, result.whole)
    return rule_module(rule).recall(replace(record, total=scope == "model"), keys)
