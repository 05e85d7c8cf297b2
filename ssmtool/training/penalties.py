"""The regulariser a training run is asked for: ``none``, or ``kind:weight`` such as ``hankel:1e-4``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ssmtool.errors import UsageError
from ssmtool.reference.layouts._contract import ReferenceModel

KINDS = ("hankel", "hankel-log", "hankel-tail", "hankel-entropy", "modal-l1")


@dataclass(frozen=True)
class Penalty:
    """What is added to the loss.

    Attributes:
        kind: one of KINDS.
        weight: its factor, positive.
    """

    kind: str
    weight: float

    def __str__(self) -> str:
        return f"{self.kind}:{self.weight!r}"


def parse_penalty(text: str) -> Penalty | None:
    """The penalty `text` names, None for ``none``.

    Raises:
        UsageError: no such kind, or a weight that is not a positive number.
    """
    if text == "none":
        return None
    kind, _, weight = text.partition(":")
    if kind not in KINDS:
        raise UsageError(f"no regulariser {kind!r}", remedy=f"Known: none, {', '.join(f'{k}:WEIGHT' for k in KINDS)}")
    try:
        value = float(weight)
    except ValueError:
        value = math.nan
    if not (0 < value < math.inf):
        raise UsageError(f"the weight of {kind} is {weight!r}", remedy=f"Give a positive number: {kind}:1e-4")
    return Penalty(kind, value)


def build_penalty(penalty: Penalty | None, model: ReferenceModel) -> Callable[[], torch.Tensor] | None:
    """A function of no arguments that returns the weighted penalty of the model's present weights, a scalar."""
    if penalty is None:
        return None
    from ssmtool.training import HankelRegularizer, ModalL1

    if penalty.kind == "modal-l1":
        return ModalL1(model, penalty.weight)
    return HankelRegularizer(model, penalty.weight, penalty.kind.removeprefix("hankel").removeprefix("-") or "sum")
