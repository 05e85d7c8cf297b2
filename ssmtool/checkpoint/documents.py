"""JSON objects read strictly: the same name twice, NaN as a size, or ten thousand nested brackets are errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ssmtool.checkpoint.files import read_small
from ssmtool.errors import CheckpointError

DEPTH = 64


def parse_object(data: bytes, *, where: str, what: str, remedy: str = "") -> dict[str, Any]:
    """One JSON object.

    Args:
        data: UTF-8 text.
        where: the file, for the message.
        what: the document, for the message, e.g. ``"header"``.
        remedy: appended to the message.

    Raises:
        CheckpointError: not UTF-8, not JSON, not an object, a name given twice, or nested without end.
    """
    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
    except _Twice as error:
        raise CheckpointError(f"{what} names {clip(error.name)} twice", where=where, remedy=remedy) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{what} is not valid JSON ({clip(str(error))})", where=where, remedy=remedy) from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{what} is a JSON {type(document).__name__}, not an object", where=where, remedy=remedy)
    if _deeper(document, DEPTH):
        raise CheckpointError(f"{what} nests more than {DEPTH} tables", where=where, remedy=remedy)
    return document


def read_object(path: Path, *, remedy: str = "") -> dict[str, Any]:
    """The JSON object a file holds. Raises CheckpointError."""
    return parse_object(read_small(path), where=str(path), what="the file", remedy=remedy)


def _deeper(document: Any, depth: int) -> bool:
    """Whether tables and lists nest deeper; what walks a document later does so by recursion."""
    level = [document]
    for _ in range(depth + 1):
        level = [
            inner
            for table in level
            for inner in (table.values() if isinstance(table, dict) else table)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def clip(text: str, limit: int = 120) -> str:
    """`text` quoted, escaped and cut to `limit` characters, fit for a message whatever a corrupt file says."""
    shown = ascii(text)
    return shown if len(shown) <= limit else f"{shown[:limit]}...'"


class _Twice(Exception):
    def __init__(self, name: str) -> None:
        self.name = name


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _Twice(name)
        found[name] = value
    return found
