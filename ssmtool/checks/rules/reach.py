"""How far back a selective layer looks on tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ssmtool.checks.rules._contract import Basis, Measurement, RuleKeys, Unmeasured

if TYPE_CHECKING:
    from ssmtool.checks.record import Record
    from ssmtool.checks.subject import Subject
    from ssmtool.families._contract import Layer

SUMMARY = "Tokens within which 90 % of the hidden attention lies"
UNIT = "tokens"
HAS_WHOLE = False
ADDS_UP = False
DEFAULT_LIMITS: dict[str, Any] = {}


class Keys(RuleKeys):
    """No keys of its own."""


def title(keys: Mapping[str, Any]) -> str:
    """In words."""
    return "reach of the hidden attention"


def basis(layer: Layer, keys: Mapping[str, Any]) -> Basis:
    """The model on tokens."""
    return "weights" if layer.lti else "tokens"


def measure(subject: Subject, keys: Mapping[str, Any]) -> Measurement:
    """As section memory of diagnose has it; the largest of a layer's mixers."""
    if subject.layer.lti:
        raise Unmeasured("a linear layer has no hidden attention: use the rule horizon")
    found = [row.reach for row in subject.rows("memory") if row.reach is not None]
    if not found:
        raise Unmeasured("its hidden attention is zero on these tokens")
    return Measurement(max(found))


def recall(record: Record, keys: Mapping[str, Any]) -> Measurement | None:
    """From a diagnosis."""
    found = [row.reach for row in record.memory if row.reach is not None]
    return Measurement(max(found)) if found else None
