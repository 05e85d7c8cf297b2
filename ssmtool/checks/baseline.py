"""An earlier JSON document of ssmtool, read for what it says about layers. Every sub-command's is taken."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from ssmtool.checkpoint.files import regular_size
from ssmtool.checks.record import DynamicsRow, Facts, MemoryRow, Record, ReducedRow, Result, Row, TimesRow
from ssmtool.errors import UsageError

SCHEMA_VERSION = 1
_TARGETS = ("rank", "energy", "error", "budget")


@dataclass(frozen=True)
class Recorded:
    """One model of a document.

    Attributes:
        path: as the document has it.
        layers: by name.
        results: of the whole model, where the document is a check.
    """

    path: str
    layers: Mapping[str, Record]
    results: tuple[Result, ...] = ()


@dataclass(frozen=True)
class Baseline:
    """A document: its file, the command that made it, and its models."""

    path: str
    command: str
    models: tuple[Recorded, ...]

    def of(self, model: str) -> Recorded | None:
        """The record of a model: the only one, or the one with its path, or else its file name."""
        if len(self.models) == 1:
            return self.models[0]
        for same in (lambda path: path == model, lambda path: Path(path).name == Path(model).name):
            found = [recorded for recorded in self.models if same(recorded.path)]
            if len(found) == 1:
                return found[0]
        return None


class _Head(Row):
    schema_version: int
    command: str
    tool: dict[str, Any]
    input: Any = None
    options: dict[str, Any] = Field(default_factory=dict)


class _HsvRow(Facts):
    redundant: int
    unstable: int
    sigma: list[list[float]]


class _Mixer(Row):
    values: list[list[float]] | None = None


class _CalibratedRow(Facts):
    mixers: list[_Mixer]


class _CompressRow(Facts):
    orders_after: list[int]
    hinf_error_relative: float
    h2_error_relative: float
    bytes_before: int
    bytes_after: int


class _SelectiveRow(Facts):
    states_after: int
    scan_error: float
    bytes_before: int
    bytes_after: int


class _InspectRow(Facts):
    bytes: int


class _ModelRow(Row):
    path: str
    layers: list[dict[str, Any]]
    results: list[Result]


class _Sections(Row):
    timescales: dict[str, Any] = Field(default_factory=dict)
    memory: dict[str, Any] = Field(default_factory=dict)
    token_dynamics: dict[str, Any] = Field(default_factory=dict)


def read_baseline(path: str | Path) -> Baseline:
    """Read a document.

    Raises:
        UsageError: it cannot be read, is no document of ssmtool, or of a later version.
    """
    tree = _parsed(Path(path))
    try:
        head = _Head.model_validate(tree)
        if head.schema_version != SCHEMA_VERSION:
            raise UsageError(
                f"has schema_version {head.schema_version}, and {SCHEMA_VERSION} is what this version reads",
                where=str(path),
                remedy="Make it anew",
            )
        return Baseline(str(path), head.command, _models(head, tree))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "document"
        raise UsageError(
            f"is no JSON document of ssmtool: {place}: {first['msg']}",
            where=str(path),
            remedy="Give what ssmtool check, hsv, compress or diagnose printed with --json",
        ) from error
    except (ValueError, OverflowError) as error:  # rows of sigma that are no matrix, numbers out of range
        raise UsageError(f"is damaged: {error}", where=str(path), remedy="Make it anew") from error


def _parsed(path: Path) -> Any:
    regular_size(path)
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror or error}", where=str(path)) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"is not JSON: {error}", where=str(path), remedy="Give a file that ssmtool printed with --json"
        ) from error


def _models(head: _Head, tree: dict[str, Any]) -> tuple[Recorded, ...]:
    if head.command == "check":
        return tuple(_checked(row) for row in TypeAdapter(list[_ModelRow]).validate_python(tree.get("models")))
    source = head.input if isinstance(head.input, dict) else {}
    rows = tree.get("layers") or []
    records = [_record(head, tree, row) for row in TypeAdapter(list[dict[str, Any]]).validate_python(rows)]
    return (Recorded(str(source.get("path", "")), {record.facts.name: record for record in records}),)


def _checked(row: _ModelRow) -> Recorded:
    layers = {}
    for one in row.layers:
        facts = Facts.model_validate(one)
        mine = tuple(result for result in row.results if result.layer == facts.name and result.scope == "layer")
        layers[facts.name] = Record(facts, results=mine)
    return Recorded(row.path, layers, tuple(result for result in row.results if result.scope == "model"))


def _record(head: _Head, tree: dict[str, Any], row: dict[str, Any]) -> Record:
    facts = Record(Facts.model_validate(row))
    if head.command == "hsv" and "sigma" in row:
        spectrum = _HsvRow.model_validate(row)
        return replace(facts, sigma=_matrix(spectrum.sigma), redundant=spectrum.redundant, unstable=spectrum.unstable)
    if head.command == "hsv" and "mixers" in row:
        mixers = _CalibratedRow.model_validate(row).mixers
        measured = [_matrix(mixer.values) for mixer in mixers if mixer.values]
        return replace(facts, values=np.concatenate(measured)) if measured else facts
    if head.command == "compress" and "orders_after" in row:
        return replace(facts, reduced=_reduced(head, _CompressRow.model_validate(row)))
    if head.command == "compress" and "states_after" in row:
        return replace(facts, reduced=_reduced_selective(head, tree, _SelectiveRow.model_validate(row)))
    if head.command == "inspect":
        return replace(facts, size=_InspectRow.model_validate(row).bytes)
    if head.command == "diagnose":
        sections = _Sections.model_validate(tree.get("sections"))
        name = facts.facts.name
        return replace(
            facts,
            times=_rows(TimesRow, sections.timescales, name),
            memory=_rows(MemoryRow, sections.memory, name),
            dynamics=_rows(DynamicsRow, sections.token_dynamics, name),
        )
    return facts


def _reduced(head: _Head, row: _CompressRow) -> ReducedRow:
    given = [(name, head.options.get(name)) for name in _TARGETS if head.options.get(name) is not None]
    name, value = given[0] if len(given) == 1 else ("", 0)
    return ReducedRow(
        target=f"{name} {value:g}" if isinstance(value, int | float) else "",
        method=str(head.options.get("method") or "balanced").replace("-", "_"),
        bytes_before=row.bytes_before,
        bytes_after=row.bytes_after,
        states_before=(row.systems or 0) * (row.order or 0),
        states_after=sum(row.orders_after),
        hinf=row.hinf_error_relative,
        h2=row.h2_error_relative,
    )


def _reduced_selective(head: _Head, tree: dict[str, Any], row: _SelectiveRow) -> ReducedRow:
    systems, stock = row.systems or 0, tree.get("export") == "stock"
    return ReducedRow(
        target=str(tree.get("target", "")) if stock else "",
        method="balanced",
        bytes_before=row.bytes_before,
        bytes_after=row.bytes_after,
        states_before=systems * (row.stored_slots or 0),
        states_after=systems * row.states_after,
        hinf=row.scan_error,
        h2=row.scan_error,
        reason="" if tree.get("refit_steps") == 0 else "its error is that of a fit",
    )


def _rows(kind: Any, section: dict[str, Any], layer: str) -> Any:
    """Rows of a section about a layer: one, or one per mixer, called layer[0], layer[1], ..."""
    rows = TypeAdapter(list[dict[str, Any]]).validate_python(section.get("layers", []))
    return tuple(row for row in map(kind.model_validate, rows) if row.name == layer or row.name.startswith(f"{layer}["))


def _matrix(rows: list[list[float]]) -> np.ndarray:
    """(S, n) float64. Raises ValueError for rows of different lengths, or numbers that are no values."""
    matrix = np.array(rows, dtype=np.float64)
    if matrix.ndim != 2 or not matrix.size or np.isnan(matrix).any() or (matrix < 0).any():
        raise ValueError("the values of a layer are no matrix of numbers from 0 up")
    return -np.sort(-matrix, axis=1)
