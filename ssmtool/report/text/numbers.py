"""Numbers as people read them in a table."""

from __future__ import annotations

import math

import numpy as np


def sci(value: float) -> str:
    """Two significant digits: 1.2e-03; ∞; – for what does not exist."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return "0" if value == 0 else f"{value:.1e}"


def spread(values: np.ndarray) -> str:
    """Median and largest of several counts: "12 (18)", or "12" if they are the same. Half states round up."""
    middle, largest = math.ceil(float(np.median(values))), int(values.max())
    return str(largest) if middle == largest else f"{middle} ({largest})"


def span(values: np.ndarray) -> str:
    """Smallest to largest of several counts: "14–16", or "16"."""
    low, high = int(values.min()), int(values.max())
    return str(high) if low == high else f"{low}–{high}"


def size(count: int) -> str:
    """Bytes in decimal units: 24.6 kB."""
    factor, unit = _unit(count)
    return f"{_in(count, factor)} {unit}"


def sizes(before: int, after: int) -> str:
    """Two sizes in the unit of the first: 33.3 → 27.1 kB."""
    factor, unit = _unit(before)
    return f"{_in(before, factor)} → {_in(after, factor)} {unit}"


def _unit(count: int) -> tuple[int, str]:
    """The largest unit in which a number of bytes is at least 1, after rounding to a decimal."""
    units = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
    return next(((factor, unit) for factor, unit in units if count >= 0.99995 * factor), (1, "B"))


def _in(count: int, factor: int) -> str:
    return str(count) if factor == 1 else f"{count / factor:.1f}"


def percent(part: float, whole: float) -> str:
    """A share: 29.5 %."""
    return f"{100 * part / whole:.1f} %" if whole else "–"


def seconds(value: float) -> str:
    """A time: 3.21 ms."""
    if value >= 1:
        return f"{value:.2f} s"
    return f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} µs"


def plural(count: int, word: str) -> str:
    """1 layer, 2 layers."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def shape(systems: int, inputs: int, outputs: int) -> str:
    """Systems of a layer and what each maps: 64×1→1; one system is not counted: 48→48."""
    return f"{inputs}→{outputs}" if systems == 1 else f"{systems}×{inputs}→{outputs}"
