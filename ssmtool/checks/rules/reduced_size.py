"""What compress would leave of a layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from ssmtool.checks.rules._contract import Basis, Measurement
from ssmtool.checks.rules._reduction import ReductionKeys, recalled, words

if TYPE_CHECKING:
    from ssmtool.checks.record import Record, ReducedRow
    from ssmtool.checks.subject import Subject
    from ssmtool.families._contract import Layer

SUMMARY = "What compress would leave of the layer, in bytes or states"
UNIT = "bytes"
HAS_WHOLE = True
ADDS_UP = True
DEFAULT_LIMITS: dict[str, Any] = {}


class Keys(ReductionKeys):
    """`of`: what is counted."""

    of: Literal["bytes", "states"] = "bytes"


def title(keys: Mapping[str, Any]) -> str:
    """In words."""
    return f"{keys['of']} after compress, {words(keys)}"


def basis(layer: Layer, keys: Mapping[str, Any]) -> Basis:
    """A dry run of compress; of selective layers on tokens."""
    return "reduction" if layer.lti else "tokens"


def measure(subject: Subject, keys: Mapping[str, Any]) -> Measurement:
    """Bytes of the layer's tensors, or states of all its systems; of those before."""
    return _of(subject.reduced(keys), keys)


def recall(record: Record, keys: Mapping[str, Any]) -> Measurement | None:
    """From a compress document."""
    row = recalled(record, keys)
    return None if row is None else _of(row, keys)


def _of(row: ReducedRow, keys: Mapping[str, Any]) -> Measurement:
    if keys["of"] == "bytes":
        return Measurement(float(row.bytes_after), float(row.bytes_before))
    return Measurement(float(row.states_after), float(row.states_before))
