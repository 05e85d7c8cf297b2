"""A resolved policy as a JSON document."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssmtool.report import schema
from ssmtool.report.check_document import spelled
from ssmtool.version import __version__

if TYPE_CHECKING:
    from ssmtool.checks.policy import Policy


class Sourced(schema._Strict):
    value: Any
    origin: str


class ConfigRule(schema._Strict):
    rule: str
    origin: str
    values: dict[str, Sourced]


class ConfigDocument(schema._Strict):
    schema_version: int = schema.SCHEMA_VERSION
    tool: schema.Tool
    command: str
    options: dict[str, Any]
    file: str | None
    settings: dict[str, Sourced]
    rules: list[ConfigRule]


def config_document(policy: Policy, options: Mapping[str, Any]) -> ConfigDocument:
    """What `ssmtool config show` prints."""
    return ConfigDocument(
        tool=schema.Tool(version=__version__),
        command="config",
        options={name: str(value) if isinstance(value, Path) else value for name, value in options.items()},
        file=None if policy.file is None else policy.name,
        settings={
            key: Sourced(value=setting.value, origin=setting.origin.text) for key, setting in policy.settings.items()
        },
        rules=[
            ConfigRule(
                rule=entry.rule,
                origin=entry.origin.text,
                values={
                    key: Sourced(value=value, origin=entry.origins[key].text if key in entry.origins else "default")
                    for key, value in {
                        "severity": entry.severity,
                        "scope": entry.scope,
                        "layers": list(entry.layers),
                        **dict(entry.keys),
                        **{limit.kind: spelled(limit.amount, limit.percent) for limit in entry.limits},
                    }.items()
                },
            )
            for entry in policy.entries
        ],
    )
