"""How far back a linear layer remembers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ssmtool.checks.rules._contract import Basis, Measurement, Unmeasured
from ssmtool.checks.rules._systems import OverKeys, of_systems, over

if TYPE_CHECKING:
    from ssmtool.checks.record import Record
    from ssmtool.checks.subject import Subject
    from ssmtool.families._contract import Layer

SUMMARY = "Steps after which a share of the impulse response's energy is left"
UNIT = "steps"
HAS_WHOLE = False
ADDS_UP = False
DEFAULT_LIMITS: dict[str, Any] = {}

_LEFT = 0.01


class Keys(OverKeys):
    """`left`: the share of the energy."""

    left: float = Field(_LEFT, gt=0, lt=1)


def title(keys: Mapping[str, Any]) -> str:
    """In words."""
    return f"memory horizon, {100 * keys['left']:g} % of the energy left{of_systems(keys)}"


def basis(layer: Layer, keys: Mapping[str, Any]) -> Basis:
    """The impulse response in closed form."""
    return "weights"


def measure(subject: Subject, keys: Mapping[str, Any]) -> Measurement:
    """Steps; infinite for unstable systems."""
    if not subject.layer.lti:
        raise Unmeasured("the horizon of a selective layer depends on its input: use the rule reach")
    from ssmtool.analyses._linear import horizon

    return Measurement(over(horizon(subject.system(), keys["left"]), keys["over"]))


def recall(record: Record, keys: Mapping[str, Any]) -> Measurement | None:
    """From a diagnosis, which has it for 1 % left."""
    if keys["left"] != _LEFT or not record.times or record.times[0].horizon is None:
        return None
    return Measurement(getattr(record.times[0].horizon, keys["over"]))
