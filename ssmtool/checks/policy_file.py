"""Policies on disk: the nearest file upward, read strictly, resolved with the built-in rules and the command line."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ssmtool import plugins
from ssmtool.checks.limits import KINDS, Kind, Limit, parse_limit
from ssmtool.checks.policy import BUILT_IN, COMMAND_LINE, DEFAULT, Entry, Origin, Policy, Setting, shown
from ssmtool.checks.rules._contract import RuleKeys
from ssmtool.checks.toml_lines import Place, line_of, lines
from ssmtool.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

RULES = "ssmtool.checks.rules"
OWN, SHARED = "ssmtool.toml", "pyproject.toml"
_PATHS = ("baseline", "tokens", "text")  # relative to the file they stand in

BUILT_IN_RULES: Mapping[str, Mapping[str, Any]] = {
    "unstable": {},
    "redundant": {},
    "order": {"severity": "warn", "energy": 0.99, "max_increase": "10%"},
}
"""In force without a file, and beside the rules of one that does not name the same."""


class CheckKeys(BaseModel):
    """[check]. `rules` is read rule by rule."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)

    defaults: bool = True
    layers: str | list[str] = Field(default_factory=list)
    baseline: str | None = None
    skipped: Literal["note", "warn", "error"] = "note"
    tokens: str | None = None
    text: str | None = None
    as_bytes: bool = Field(False, alias="bytes")
    sampled: int | None = Field(None, alias="self", ge=1)
    length: int | None = Field(None, ge=1)
    sequences: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0)
    rules: dict[str, Any] = Field(default_factory=dict)


def find_policy(start: Path) -> Path | None:
    """The nearest policy file in a directory or above it.

    Raises:
        UsageError: a file on the way that cannot be read.
    """
    start = start.absolute()
    for folder in (start, *start.parents):
        if (folder / OWN).is_file():
            return folder / OWN
        if (folder / SHARED).is_file() and "ssmtool" in _table(_parsed(folder / SHARED)[0], "tool"):
            return folder / SHARED
    return None


def read_policy(file: Path | None, changes: Sequence[str] = ()) -> Policy:
    """The policy of a file, with the built-in rules and changes from the command line.

    Args:
        file: from `find_policy` or named by the user; None for the built-in rules alone.
        changes: RULE.KEY=VALUE, in order.

    Raises:
        UsageError: a file that cannot be read or is no TOML, a key that does not exist, a value that is wrong.
    """
    tree, found, prefix = ({}, {}, ()) if file is None else _section(file)
    reader = _Reader("" if file is None else shown(file), found, prefix)
    top = reader.validated(CheckKeys, tree, ())
    written: dict[str, list[tuple[dict[str, Any], Place]]] = {}
    for rule in top.rules:
        reader.known_rule(rule)
        written[rule] = reader.tables(rule, top.rules[rule])
    entries = [
        _entry(rule, keys, lambda _: BUILT_IN, BUILT_IN, RuleReader())
        for rule, keys in BUILT_IN_RULES.items()
        if top.defaults and rule not in written and rule not in {change.partition(".")[0] for change in changes}
    ]
    changed = _changes(changes)
    for rule in [*written, *(rule for rule in changed if rule not in written)]:
        tables = written.get(rule, [({}, ())])
        new = changed.get(rule, {})
        if new and len(tables) > 1:
            raise UsageError(
                f"--set {rule}.{next(iter(new))}: the policy has {len(tables)} entries of this rule",
                where=reader.file,
                remedy="Change the one you mean there",
            )
        for table, place in tables:
            origins = {key: reader.origin((*place, key)) for key in table} | dict.fromkeys(new, COMMAND_LINE)
            start = reader.origin(place) if place else COMMAND_LINE
            entries.append(_entry(rule, {**table, **new}, origins.get, start, reader))
    return Policy(file, _settings(top, tree, file, reader), tuple(entries))


class RuleReader:
    """Says what is wrong with a value, where it is from the program itself."""

    file = ""

    def fail(self, place: Place, what: str, remedy: str = "") -> UsageError:
        """An error about a place."""
        return UsageError(what, where=".".join(map(str, place)), remedy=remedy)


class _Reader(RuleReader):
    """Says what is wrong with a value of a file, and where it stands."""

    def __init__(self, file: str, found: dict[Place, int], prefix: tuple[str, ...]) -> None:
        self.file, self._lines, self._prefix = file, found, prefix

    def origin(self, place: Place) -> Origin:
        """File and line of a place inside the section."""
        return Origin(self.file, line_of(self._lines, (*self._prefix, *place)))

    def fail(self, place: Place, what: str, remedy: str = "") -> UsageError:
        return UsageError(what, where=self.origin(place).text if self.file else "--set", remedy=remedy)

    def known_rule(self, rule: str) -> None:
        """Raises UsageError for a rule there is not."""
        known = plugins.names(RULES)
        if rule not in known:
            raise self.fail(("rules", rule), f"there is no rule {rule!r}", _nearest(rule, known))

    def tables(self, rule: str, value: Any) -> list[tuple[dict[str, Any], Place]]:
        """The entries of a rule and their places."""
        place: Place = ("rules", rule)
        if isinstance(value, str):
            return [({"severity": value}, place)]
        if isinstance(value, dict):
            return [(value, place)]
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            return [(item, (*place, i)) for i, item in enumerate(value)]
        raise self.fail(place, f"{rule} is neither a severity nor a table", f'Write {rule} = "error" or a table')

    def validated(self, model: type[BaseModel], tree: dict[str, Any], place: Place) -> Any:
        """The table as a model. Raises UsageError."""
        return validated(model, tree, place, self)


def validated(model: type[BaseModel], tree: dict[str, Any], place: Place, reader: RuleReader) -> Any:
    """A table as a model. Raises UsageError that says which key, where, and the nearest one there is."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        # A key that does not exist comes first: it often is the misspelled one that is missing.
        first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    names = [field.alias or name for name, field in model.model_fields.items()]
    key = str(first["loc"][0]) if first["loc"] else ""
    whole = ".".join(str(part) for part in (*(p for p in place if not isinstance(p, int)), key) if part)
    if first["type"] == "extra_forbidden":
        raise reader.fail((*place, key), f"there is no key {whole!r}", _nearest(key, names))
    if first["type"] == "missing":
        raise reader.fail(place, f"{whole!r} is missing", f"There are: {', '.join(names)}")
    text = str(first["msg"]).removeprefix("Value error, ")
    raise reader.fail((*place, key) if key else place, f"{whole}: {text[0].lower()}{text[1:]}")


def _entry(rule: str, table: Mapping[str, Any], origin_of: Any, start: Origin, reader: RuleReader) -> Entry:
    """A rule's table, checked, with the rule's own defaults. Raises UsageError."""
    module = plugins.load(RULES, rule)
    place: Place = ("rules", rule)
    where = _Located(reader, origin_of, start)
    keys: RuleKeys = validated(module.Keys, dict(table), place, where)
    limits: dict[Kind, Any] = {kind: getattr(keys, kind) for kind in KINDS if getattr(keys, kind) is not None}
    limits = limits or dict(module.DEFAULT_LIMITS)
    own = {name: getattr(keys, name) for name in type(keys).model_fields if name not in RuleKeys.model_fields}
    for kind, value in limits.items():
        limit = parse_limit(kind, value)
        if limit.percent and not limit.against_baseline and not module.HAS_WHOLE and module.UNIT:
            raise where.fail(
                (*place, kind), f"{rule}.{kind}: there is nothing to take a percentage of", "Give a number"
            )
    if keys.scope == "model" and not module.ADDS_UP:
        raise where.fail((*place, "scope"), f"{rule} does not add up over layers", 'Use scope = "layer"')
    named = {name: origin_of(name) or DEFAULT for name in (*own, "severity", "scope", "layers", *limits)}
    return Entry(
        rule=rule,
        severity=keys.severity,
        scope=keys.scope,
        layers=(keys.layers,) if isinstance(keys.layers, str) else tuple(keys.layers),
        keys=tuple(sorted(own.items())),
        limits=tuple(_limit(kind, limits[kind], bool(module.UNIT)) for kind in KINDS if kind in limits),
        origin=start,
        origins=named,
    )


def _limit(kind: Any, value: float | str, has_unit: bool) -> Limit:
    """A limit; a percentage as a limit of a share is that share."""
    limit = parse_limit(kind, value)
    if limit.percent and not has_unit and not limit.against_baseline:
        return Limit(kind, limit.amount / 100, False)
    return limit


class _Located(RuleReader):
    """Errors about a key of an entry, at the place that key is from."""

    def __init__(self, reader: RuleReader, origin_of: Any, start: Origin) -> None:
        self._origin_of, self._start = origin_of, start
        self.file = reader.file

    def fail(self, place: Place, what: str, remedy: str = "") -> UsageError:
        origin = self._origin_of(place[-1]) or self._start
        return UsageError(what, where="--set" if origin == COMMAND_LINE else origin.text, remedy=remedy)


def _changes(changes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Rule -> key -> value of RULE.KEY=VALUE. Raises UsageError."""
    found: dict[str, dict[str, Any]] = {}
    known = plugins.names(RULES)
    for change in changes:
        name, equals, text = change.partition("=")
        rule, dot, key = name.strip().partition(".")
        if not equals or not dot or not key:
            raise UsageError(f"--set {change} is not RULE.KEY=VALUE", remedy="For example --set order.max=32")
        if rule not in known:
            raise UsageError(f"there is no rule {rule!r}", where=f"--set {change}", remedy=_nearest(rule, known))
        try:
            value = tomllib.loads(f"value = {text}")
            found.setdefault(rule, {})[key] = value["value"] if set(value) == {"value"} else text
        except (tomllib.TOMLDecodeError, RecursionError):
            found.setdefault(rule, {})[key] = text
    return found


def _settings(top: CheckKeys, tree: dict[str, Any], file: Path | None, reader: _Reader) -> dict[str, Setting]:
    """Every key of [check] but the rules."""
    found = {}
    for name, field in CheckKeys.model_fields.items():
        key, value = field.alias or name, getattr(top, name)
        if key == "rules":
            continue
        if key in _PATHS and value is not None and file is not None:
            value = str(file.parent / value) if file.parent != Path.cwd() else value
        if key == "layers":
            value = [value] if isinstance(value, str) else value
        found[key] = Setting(value, reader.origin((key,)) if key in tree else DEFAULT)
    return found


def _section(file: Path) -> tuple[dict[str, Any], dict[Place, int], tuple[str, ...]]:
    """The [check] table of a file, the lines of all its places, and the place of the table. Raises UsageError."""
    tree, text = _parsed(file)
    shared = file.name == SHARED
    if shared and "ssmtool" not in _table(tree, "tool"):
        raise UsageError("has no [tool.ssmtool.check]", where=shown(file), remedy="Add it, or name another --policy")
    above: tuple[str, ...] = ("tool", "ssmtool") if shared else ()
    found = lines(text)
    reader = _Reader(shown(file), found, above)
    own = _table(_table(tree, "tool"), "ssmtool") if shared else tree
    if not isinstance(own, dict):
        raise reader.fail((), "tool.ssmtool is no table")
    for key in own:
        if key != "check":
            raise reader.fail((key,), f"there is no key {'.'.join((*above, key))!r}", _nearest(key, ["check"]))
    if not isinstance(own.get("check", {}), dict):
        raise reader.fail(("check",), "check is no table")
    return own.get("check", {}), found, (*above, "check")


def _table(tree: Any, key: str) -> Any:
    return tree.get(key, {}) if isinstance(tree, dict) else {}


def _parsed(file: Path) -> tuple[dict[str, Any], str]:
    """A TOML file and its text. Raises UsageError."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
        return tomllib.loads(text), text
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror or error}", where=shown(file)) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"is not UTF-8 (byte {error.start})", where=shown(file)) from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"is not valid TOML: {error}", where=shown(file)) from error
    except (RecursionError, ValueError) as error:
        raise UsageError(f"cannot be read as TOML: {error}", where=shown(file)) from error


def _nearest(name: str, known: Sequence[str]) -> str:
    """What might have been meant, and everything there is."""
    close = difflib.get_close_matches(name, known, 1, 0.5)
    return (f"Did you mean {close[0]!r}? " if close else "") + f"There are: {', '.join(known)}"
