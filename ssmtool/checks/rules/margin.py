"""How far from the unit circle a layer's slowest mode is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ssmtool.checks.rules._contract import Basis, Measurement, RuleKeys, Unmeasured

if TYPE_CHECKING:
    from ssmtool.checks.record import Record
    from ssmtool.checks.subject import Subject
    from ssmtool.families._contract import Layer

SUMMARY = "1 − largest modulus of an eigenvalue in use"
UNIT = ""
HAS_WHOLE = False
ADDS_UP = False
DEFAULT_LIMITS: dict[str, Any] = {}


class Keys(RuleKeys):
    """No keys of its own."""


def title(keys: Mapping[str, Any]) -> str:
    """In words."""
    return "stability margin"


def basis(layer: Layer, keys: Mapping[str, Any]) -> Basis:
    """Eigenvalues; of selective layers, with the steps they take."""
    return "weights" if layer.lti else "tokens"


def measure(subject: Subject, keys: Mapping[str, Any]) -> Measurement:
    """As section timescales of diagnose has it; the least of a layer's mixers."""
    rows = subject.rows("timescales")
    if not rows:
        raise Unmeasured("has no time scales")
    return Measurement(min(row.margin for row in rows))


def recall(record: Record, keys: Mapping[str, Any]) -> Measurement | None:
    """From a diagnosis, made on tokens if the layer is selective."""
    rows = [row for row in record.times if row.source in ("weights", "tokens")]
    return Measurement(min(row.margin for row in rows)) if rows else None
