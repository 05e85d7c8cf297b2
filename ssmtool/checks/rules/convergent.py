"""Selective layers that drive tokens together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from ssmtool.checks.rules._contract import Basis, Measurement, RuleKeys, Unmeasured

if TYPE_CHECKING:
    from ssmtool.checks.record import DynamicsRow, Record
    from ssmtool.checks.subject import Subject
    from ssmtool.families._contract import Layer

SUMMARY = "Mixers that drive tokens together"
UNIT = "mixers"
HAS_WHOLE = True
ADDS_UP = True
DEFAULT_LIMITS: dict[str, Any] = {"max": 0}


class Keys(RuleKeys):
    """A warning by default: the theory behind it is one-dimensional."""

    severity: Any = "warn"
    by: Literal["weights", "tokens"] = "weights"


def title(keys: Mapping[str, Any]) -> str:
    """In words."""
    return "convergent mixers" + (", on tokens" if keys["by"] == "tokens" else "")


def basis(layer: Layer, keys: Mapping[str, Any]) -> Basis:
    """The maps to B and C, or what they are on tokens."""
    return "tokens" if keys["by"] == "tokens" and not layer.lti else "weights"


def measure(subject: Subject, keys: Mapping[str, Any]) -> Measurement:
    """Mixers all of whose non-zero eigenvalues have a negative real part; of all of the layer's."""
    if subject.layer.lti:
        raise Unmeasured("a linear layer does not let tokens choose how they interact")
    return _of([_row(row) for row in subject.rows("token_dynamics")], keys)


def recall(record: Record, keys: Mapping[str, Any]) -> Measurement | None:
    """From a diagnosis."""
    rows = record.dynamics
    if not rows or (keys["by"] == "tokens" and any(row.moment is None for row in rows)):
        return None
    return _of(rows, keys)


def _row(row: Any) -> DynamicsRow:
    from ssmtool.checks.record import DynamicsRow, Signs

    moment = None if row.moment is None else Signs(positive=row.moment.positive, negative=row.moment.negative)
    return DynamicsRow(name=row.name, regime=row.regime, moment=moment)


def _of(rows: Any, keys: Mapping[str, Any]) -> Measurement:
    if keys["by"] == "weights":
        count = sum(row.regime == "convergent" for row in rows)
    else:
        count = sum(row.moment.positive == 0 and row.moment.negative > 0 for row in rows)
    return Measurement(float(count), float(len(rows)))
