"""States that a layer stores and nothing can see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ssmtool.checks.rules._contract import Basis, Measurement, RuleKeys, Unmeasured

if TYPE_CHECKING:
    from ssmtool.checks.record import Record
    from ssmtool.checks.subject import Subject
    from ssmtool.families._contract import Layer

SUMMARY = "Exactly redundant states, all systems together"
UNIT = "states"
HAS_WHOLE = True
ADDS_UP = True
DEFAULT_LIMITS: dict[str, Any] = {"max": 0}


class Keys(RuleKeys):
    """A warning by default: redundant states cost bytes and harm nothing."""

    severity: Any = "warn"


def title(keys: Mapping[str, Any]) -> str:
    """In words."""
    return "exactly redundant states"


def basis(layer: Layer, keys: Mapping[str, Any]) -> Basis:
    """Hankel singular values."""
    return "spectrum" if layer.lti else "weights"


def measure(subject: Subject, keys: Mapping[str, Any]) -> Measurement:
    """Equal modes, and modes without input or output; of those stored."""
    layer = subject.layer
    if not layer.lti:
        raise Unmeasured("redundancy is proven for linear time-invariant layers only")
    return Measurement(float(subject.spectrum().redundant.sum()), float(layer.systems * layer.order))


def recall(record: Record, keys: Mapping[str, Any]) -> Measurement | None:
    """From an hsv document."""
    return None if record.redundant is None else Measurement(float(record.redundant), record.stored)
