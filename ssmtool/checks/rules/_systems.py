"""One number of a layer from one per system."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from ssmtool.checks.rules._contract import RuleKeys

Over = Literal["largest", "median", "smallest"]


class OverKeys(RuleKeys):
    """Keys of rules that measure every system of a layer."""

    over: Over = "largest"


def over(values: Any, which: str) -> float:
    """The largest, the (lower) median or the smallest of some numbers, infinite ones included: one that is there."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    place = {"largest": -1, "median": (len(ordered) - 1) // 2, "smallest": 0}[which]
    return float(ordered[place])


def of_systems(keys: Any) -> str:
    """Which system counts, for a title; "" for the largest, which is the usual case."""
    return "" if keys["over"] == "largest" else f", {keys['over']} of the systems"
