"""A resolved policy as text: TOML that could be a policy file, with the origin of every value beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ssmtool.report.check_document import spelled

if TYPE_CHECKING:
    from ssmtool.checks.policy import Entry, Policy


def config_text(policy: Policy) -> str:
    """The policy as TOML; settings and keys without a value are comments."""
    rows = [f"# {policy.name if policy.file else 'no policy file: the built-in rules'}", "", "[check]"]
    rows += _aligned((key, s.value, s.origin.text) for key, s in policy.settings.items() if key != "defaults")
    rows.insert(3, "defaults = false  # every rule in force is below")
    several = {entry.rule for entry in policy.entries if sum(e.rule == entry.rule for e in policy.entries) > 1}
    for entry in policy.entries:
        name = f"check.rules.{entry.rule}"
        heading = f"[[{name}]]" if entry.rule in several else f"[{name}]"
        rows += ["", f"{heading}  # {entry.origin.text}", *_aligned(_values(entry))]
    return "\n".join(rows) + "\n"


def _values(entry: Entry) -> Iterable[tuple[str, Any, str]]:
    values: Mapping[str, Any] = {
        "severity": entry.severity,
        "scope": entry.scope,
        "layers": list(entry.layers),
        **dict(entry.keys),
        **{limit.kind: spelled(limit.amount, limit.percent) for limit in entry.limits},
    }
    for key, value in values.items():
        origin = entry.origins.get(key)
        yield key, value, "default" if origin is None else origin.text


def _aligned(values: Iterable[tuple[str, Any, str]]) -> list[str]:
    """Pairs with their origins in one column."""
    rows = [(f"{key} = {_toml(value)}" if value is not None else f"# {key}", origin) for key, value, origin in values]
    width = max((len(text) for text, _ in rows), default=0)
    return [f"{text:<{width}}  # {origin}" for text, origin in rows]


def _toml(value: Any) -> str:
    """A value as TOML; its strings, numbers and lists are those of JSON."""
    return json.dumps(value, ensure_ascii=False)
