"""Where ticks go and what they say."""

from __future__ import annotations

import math
from collections.abc import Sequence

_SUPER = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


def place(value: float, ends: tuple[float, float], log: bool) -> float:
    """Share of the axis at which a value lies: 0 at its start, 1 at its end; NaN where it has none."""
    low, high = ends
    if log:
        if not value > 0:
            return math.nan
        value, low, high = math.log10(value), math.log10(low), math.log10(high)
    return (value - low) / (high - low) if high > low else 0.5


def ticks(ends: tuple[float, float], log: bool, most: int = 6, whole: bool = False) -> list[tuple[float, str]]:
    """At most about `most` values and their labels, ascending.

    Args:
        ends: of the axis.
        log: whether it is logarithmic: powers of ten, or 1, 2 and 5 times them on a short axis.
        whole: integers only.
    """
    low, high = ends
    if log:
        first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
        if last - first >= 1:
            step = max(1, -(-(last - first) // (most - 1)))
            return [(10.0**k, power(k)) for k in range(first, last + 1, step)]
        found = [m * 10.0**k for k in range(first - 1, last + 2) for m in (1, 2, 5)]
        return [(v, plain_number(v)) for v in found if low <= v * (1 + 1e-9) and v <= high * (1 + 1e-9)]
    if not high > low:
        return [(low, plain_number(low))]
    rough = (high - low) / max(1, most - 1)
    base = 10.0 ** math.floor(math.log10(rough))
    step = next(base * s for s in _STEPS if base * s >= rough * (1 - 1e-9))
    if whole:
        step = max(1.0, math.ceil(step))
    start = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - start + 1
    digits = max(0, -math.floor(math.log10(step) + 1e-9) + (1 if step / base == 2.5 else 0))
    return [((start + i) * step, _label((start + i) * step, digits)) for i in range(count)]


def power(exponent: int) -> str:
    """10 to a whole number: 10⁻³; 1 and 10 as they are."""
    return {0: "1", 1: "10"}.get(exponent, "10" + str(exponent).translate(_SUPER))


def plain_number(value: float) -> str:
    """A number with as few digits as it needs."""
    return f"{value:g}".replace("-", "−")


def _label(value: float, digits: int) -> str:
    if abs(value) >= 1e5:
        return f"{value:.3g}".replace("e+0", "e").replace("e+", "e")
    return f"{value + 0.0:.{min(digits, 6)}f}".replace("-", "−")


def marked_columns(columns: Sequence[int], most: int) -> list[int]:
    """Places of the columns that are named: the first, and round numbers where every state has a column."""
    if tuple(columns) == tuple(range(columns[0], columns[-1] + 1)):
        wanted = [int(value) for value, _ in ticks((columns[0], columns[-1]), False, most, whole=True)]
        return [0, *(value - columns[0] for value in wanted if value > columns[0] + 1)]
    count = min(len(columns), most)
    return sorted({round(k * (len(columns) - 1) / max(1, count - 1)) for k in range(count)})
