"""What compress would cost in accuracy, measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from ssmtool.checks.rules._contract import Basis, Measurement, Unmeasured
from ssmtool.checks.rules._reduction import ReductionKeys, recalled, words

if TYPE_CHECKING:
    from ssmtool.checks.record import Record, ReducedRow
    from ssmtool.checks.subject import Subject
    from ssmtool.families._contract import Layer

SUMMARY = "Relative error of the layer that compress would store"
UNIT = ""
HAS_WHOLE = False
ADDS_UP = False
DEFAULT_LIMITS: dict[str, Any] = {}


class Keys(ReductionKeys):
    """`norm`: H-infinity relative to sigma_1, or H2 relative to the H2 norm."""

    norm: Literal["hinf", "h2"] = "hinf"


def title(keys: Mapping[str, Any]) -> str:
    """In words."""
    return f"{'H∞' if keys['norm'] == 'hinf' else 'H2'} error after compress, {words(keys)}"


def basis(layer: Layer, keys: Mapping[str, Any]) -> Basis:
    """A dry run of compress; of selective layers on tokens."""
    return "reduction" if layer.lti else "tokens"


def measure(subject: Subject, keys: Mapping[str, Any]) -> Measurement:
    """Of the tensors as they would be stored; the largest of the systems. Of selective layers, of their output."""
    row = subject.reduced(keys)
    if row.reason:
        raise Unmeasured(row.reason)
    return _of(row, keys)


def recall(record: Record, keys: Mapping[str, Any]) -> Measurement | None:
    """From a compress document."""
    row = recalled(record, keys)
    return None if row is None or row.reason else _of(row, keys)


def _of(row: ReducedRow, keys: Mapping[str, Any]) -> Measurement:
    return Measurement(row.hinf if keys["norm"] == "hinf" else row.h2)
