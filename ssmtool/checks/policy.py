"""What a policy says, resolved: every rule in force, every setting, and where each value is from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from ssmtool.checks.limits import Limit

Severity = Literal["error", "warn", "off"]
Scope = Literal["layer", "model"]


@dataclass(frozen=True)
class Origin:
    """Where a value is from: a file and its line, or one of "built-in", "default" and "command line"."""

    source: str
    line: int = 0

    @property
    def text(self) -> str:
        """As messages name it: ssmtool.toml:7."""
        return f"{self.source}:{self.line}" if self.line else self.source


BUILT_IN, DEFAULT, COMMAND_LINE = Origin("built-in"), Origin("default"), Origin("command line")


def shown(file: Path) -> str:
    """A file as messages name it: relative where it is below the current directory."""
    try:
        return str(file.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(file)


@dataclass(frozen=True)
class Setting:
    """A value and where it is from."""

    value: Any
    origin: Origin


@dataclass(frozen=True)
class Entry:
    """One rule on some layers.

    Attributes:
        rule: its id.
        severity: "off" entries take layers away from entries before them.
        scope: "model" for one number of all layers together.
        layers: globs; empty for all.
        keys: which number the rule measures, by key, sorted.
        limits: in the order min, max, max_increase, max_decrease.
        origin: where the entry starts.
        origins: of each of its values, by key.
    """

    rule: str
    severity: Severity
    scope: Scope
    layers: tuple[str, ...]
    keys: tuple[tuple[str, Any], ...]
    limits: tuple[Limit, ...]
    origin: Origin
    origins: Mapping[str, Origin] = field(default_factory=dict, compare=False, hash=False)

    def matches(self, layer: str) -> bool:
        """Whether the entry is for a layer."""
        return not self.layers or any(fnmatchcase(layer, pattern) for pattern in self.layers)

    def overrides(self, other: Entry) -> bool:
        """Whether this entry, coming later, counts instead of the other on layers that both match."""
        if (self.rule, self.scope) != (other.rule, other.scope):
            return False
        return self.severity == "off" or self.keys == other.keys


@dataclass(frozen=True)
class Policy:
    """A resolved policy.

    Attributes:
        file: the file it is from; None without one.
        settings: by key of [check], those without a value included.
        entries: the rules, built-in ones first; those that are off included.
    """

    file: Path | None
    settings: Mapping[str, Setting]
    entries: tuple[Entry, ...]

    @property
    def name(self) -> str:
        """The file as messages name it; "built-in" without one."""
        return BUILT_IN.source if self.file is None else shown(self.file)

    def value(self, key: str) -> Any:
        """A setting's value."""
        return self.settings[key].value

    def with_setting(self, key: str, value: Any) -> Policy:
        """The same policy with a setting from the command line."""
        return replace(self, settings={**self.settings, key: Setting(value, COMMAND_LINE)})

    def only(self, rules: Sequence[str]) -> Policy:
        """The same policy with some rules alone."""
        return replace(self, entries=tuple(entry for entry in self.entries if entry.rule in rules))

    def applied(self, layers: Sequence[str]) -> tuple[tuple[Entry, tuple[str, ...]], ...]:
        """Entries that are in force, and the layers for which no later entry counts instead; those without any too."""
        found = []
        for i, entry in enumerate(self.entries):
            if entry.severity == "off":
                continue
            later = [other for other in self.entries[i + 1 :] if other.overrides(entry)]
            mine = (name for name in layers if entry.matches(name))
            found.append((entry, tuple(name for name in mine if not any(other.matches(name) for other in later))))
        return tuple(found)
