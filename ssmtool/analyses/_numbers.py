"""Small summaries that several sections make in the same way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ssmtool.analyses._contract import Curve

_LEVELS = (0.0, 0.1, 0.5, 0.9, 1.0)


@dataclass(frozen=True)
class Quantiles:
    """Smallest, 10 %, median, 90 % and largest of a set of numbers."""

    smallest: float
    tenth: float
    median: float
    ninetieth: float
    largest: float


def quantiles(values: np.ndarray, weights: np.ndarray | None = None) -> Quantiles:
    """Quantiles of any finite or infinite values; with weights, of the weighted distribution (no interpolation)."""
    flat = np.ravel(values)
    if weights is None:
        finite = np.where(np.isposinf(flat), np.finfo(np.float64).max, flat)
        found = np.quantile(finite, _LEVELS, method="inverted_cdf")
    else:
        order = np.argsort(flat)
        share = np.cumsum(np.ravel(weights)[order])
        places = np.searchsorted(share, np.array(_LEVELS) * share[-1])
        positive = np.flatnonzero(np.ravel(weights)[order] > 0)
        found = flat[order][np.clip(places, positive[0], positive[-1])]
    return Quantiles(*(float(x) if x < np.finfo(np.float64).max else float("inf") for x in found))


def floats(values: Iterable[float] | np.ndarray) -> tuple[float, ...]:
    """As a tuple of Python floats, which JSON knows."""
    return tuple(float(x) for x in values)


def curve(x: Iterable[float] | np.ndarray, y: Iterable[float] | np.ndarray, label: str = "") -> Curve:
    """A curve of plain numbers."""
    return Curve(floats(x), floats(y), label)


def effective_rank(values: np.ndarray) -> np.ndarray:
    """exp(-sum p ln p), p = values / sum(values), along the last axis: how many of them matter.

    Source: Roy & Vetterli, "The effective rank", EUSIPCO 2007.
    """
    clipped = np.clip(values, 0.0, None)
    total = clipped.sum(-1, keepdims=True)
    p = np.divide(clipped, total, out=np.zeros_like(clipped), where=total > 0)
    return np.exp(-np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=-1))
