"""A document as JSON text that people can read too."""

from __future__ import annotations

import json
import math
from typing import Any

from pydantic import BaseModel


def json_text(document: BaseModel) -> str:
    """One JSON value: objects are indented, lists of numbers or strings stay on a line.

    Floats are written with the fewest digits that read back as the same float64. JSON has no infinity: it becomes the
    string "Infinity" or "-Infinity"; NaN becomes null.
    """
    return _text(document.model_dump(mode="python"), "")


def _text(value: Any, indent: str) -> str:
    inner = indent + "  "
    if isinstance(value, dict) and value:
        rows = [f"{inner}{json.dumps(str(key))}: {_text(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    if isinstance(value, (list, tuple)):
        if any(isinstance(item, (dict, list, tuple)) for item in value):
            return "[\n" + ",\n".join(inner + _text(item, inner) for item in value) + f"\n{indent}]"
        return "[" + ", ".join(_scalar(item) for item in value) + "]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        if math.isnan(value):
            return "null"
        return '"Infinity"' if value > 0 else '"-Infinity"'
    return json.dumps(value, allow_nan=False, default=str)
