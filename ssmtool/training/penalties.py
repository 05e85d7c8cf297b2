"""The regulariser a training run is asked for: ``none``, or ``kind:weight`` and options: ``hankel:1e-4,refresh=16``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ssmtool.errors import UsageError
from ssmtool.reference.layouts._contract import ReferenceModel
from ssmtool.training.hankel import HankelRegularizer
from ssmtool.training.modal import ModalL1

HANKEL = {"hankel": "sum", "hankel-log": "log", "hankel-tail": "tail", "hankel-entropy": "entropy"}
KINDS = (*HANKEL, "modal-l1")
OPTIONS = {"channels": int, "refresh": int, "scale": float, "order": float}  # of HankelRegularizer


@dataclass(frozen=True)
class Penalty:
    """What is added to the loss.

    Attributes:
        kind: one of KINDS.
        weight: its factor, positive.
        options: of HankelRegularizer, those in OPTIONS.
    """

    kind: str
    weight: float
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """As `parse_penalty` reads it, the same for every way to write the same numbers."""
        return ",".join(
            [f"{self.kind}:{self.weight!r}", *(f"{name}={value!r}" for name, value in self.options.items())]
        )


def parse_penalty(text: str) -> Penalty | None:
    """The penalty `text` names, None for ``none``.

    Raises:
        UsageError: no such kind or option, or a number that is not positive.
    """
    if text == "none":
        return None
    head, *rest = text.split(",")
    kind, _, weight = head.partition(":")
    if kind not in KINDS:
        raise UsageError(f"no regulariser {kind!r}", remedy=f"Known: none, {', '.join(f'{k}:WEIGHT' for k in KINDS)}")
    options = {}
    for item in rest:
        name, _, value = item.partition("=")
        if kind not in HANKEL or name not in OPTIONS:
            known = ", ".join(OPTIONS) if kind in HANKEL else "none"
            raise UsageError(f"regulariser {kind} has no option {name!r}", remedy=f"It has: {known}")
        options[name] = _positive(value, OPTIONS[name], f"option {name} of regulariser {kind}")
    return Penalty(kind, _positive(weight, float, f"the weight of regulariser {kind}"), dict(sorted(options.items())))


def build_penalty(penalty: Penalty | None, model: ReferenceModel) -> HankelRegularizer | ModalL1 | None:
    """A function of no arguments that returns the weighted penalty of the model's present weights, a scalar."""
    if penalty is None:
        return None
    if penalty.kind == "modal-l1":
        return ModalL1(model, penalty.weight)
    return HankelRegularizer(model, penalty.weight, HANKEL[penalty.kind], **penalty.options)


def _positive(text: str, kind: type, what: str) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UsageError(f"{what} is {text!r}", remedy="Give a positive number, such as hankel:1e-4")
    return value
