"""States that do not decay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ssmtool.checks.rules._contract import Basis, Measurement, RuleKeys

if TYPE_CHECKING:
    from ssmtool.checks.record import Record
    from ssmtool.checks.subject import Subject
    from ssmtool.families._contract import Layer

SUMMARY = "States on or outside the unit circle, all systems together"
UNIT = "states"
HAS_WHOLE = True
ADDS_UP = True
DEFAULT_LIMITS: dict[str, Any] = {"max": 0}


class Keys(RuleKeys):
    """No keys of its own."""


def title(keys: Mapping[str, Any]) -> str:
    """In words."""
    return "states on or outside the unit circle"


def basis(layer: Layer, keys: Mapping[str, Any]) -> Basis:
    """Eigenvalues."""
    return "weights"


def measure(subject: Subject, keys: Mapping[str, Any]) -> Measurement:
    """Of those stored. Selective layers decay by exp(-a dt), a > 0 and dt > 0, whatever their weights: none."""
    layer = subject.layer
    stored = float(layer.systems * layer.order)
    if not layer.lti:
        return Measurement(0.0, stored)
    from ssmtool.lti.stability import unstable_states

    return Measurement(float(unstable_states(subject.system()).sum()), stored)


def recall(record: Record, keys: Mapping[str, Any]) -> Measurement | None:
    """From an hsv document."""
    return None if record.unstable is None else Measurement(float(record.unstable), record.stored)
