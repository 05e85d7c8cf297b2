"""Limits of a policy, and whether a number keeps them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["min", "max", "max_increase", "max_decrease"]
KINDS: tuple[Kind, ...] = ("min", "max", "max_increase", "max_decrease")

_PERCENT = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*%\s*")
_ROUNDING = 1e-9  # relative: the same checkpoint on another machine


@dataclass(frozen=True)
class Limit:
    """One limit.

    Attributes:
        kind: what is limited.
        amount: in the rule's unit, or in percent.
        percent: of the whole (min, max) or of the baseline's number (max_increase, max_decrease).
    """

    kind: Kind
    amount: float
    percent: bool

    @property
    def against_baseline(self) -> bool:
        """Whether a baseline is needed."""
        return self.kind in ("max_increase", "max_decrease")

    @property
    def text(self) -> str:
        """The limit as a policy spells it: 40 or 50 %."""
        return f"{self.amount:.10g}" + (" %" if self.percent else "")

    def bound(self, whole: float | None, baseline: float | None) -> float | None:
        """The number that may just be reached; None where there is no whole, or no baseline, to take it of."""
        if not self.against_baseline:
            return self.amount if not self.percent else None if whole is None else self.amount / 100 * whole
        if baseline is None:
            return None
        change = self.amount / 100 * abs(baseline) if self.percent else self.amount
        return baseline + (change if self.kind == "max_increase" else -change)

    def holds(self, value: float, bound: float) -> bool:
        """Whether a number keeps the limit, up to rounding."""
        if math.isnan(value) or math.isnan(bound):
            return False
        if value == bound:
            return True
        slack = _ROUNDING * max(abs(value), abs(bound))
        if not math.isfinite(slack):
            slack = 0.0
        return value >= bound - slack if self.kind in ("min", "max_decrease") else value <= bound + slack


def parse_limit(kind: Kind, value: float | str) -> Limit:
    """A limit as it stands in a policy. Raises ValueError that says what is wrong."""
    if isinstance(value, str):
        found = _PERCENT.fullmatch(value)
        if found is None:
            raise ValueError(f'{value!r} is neither a number nor a percentage such as "50%"')
        limit = Limit(kind, float(found[1]), True)
    else:
        limit = Limit(kind, float(value), False)
    if not math.isfinite(limit.amount):
        raise ValueError("is not a finite number")
    if limit.against_baseline and limit.amount < 0:
        raise ValueError("is negative: a change that is allowed is 0 or more")
    return limit
