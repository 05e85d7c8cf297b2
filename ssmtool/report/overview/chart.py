"""Charts as data: what is drawn, not how. SVG for the page (svg.py), Matplotlib for PDF and papers (figures.py)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Kind = Literal["line", "band", "point", "cross", "step", "bar"]


@dataclass(frozen=True)
class Series:
    """One set of marks.

    Attributes:
        kind: "band" lies between y and `upper`; "bar" and "step" stand on bin centres x.
        x, y: as many numbers; NaN is a gap.
        label: in the legend; "" for none.
        tone: place among the categorical colours.
        shade: place of a layer between the first (0) and the last (1): takes the colour map's colour instead.
        dash: 0 solid, 1 dashed, 2 dotted, 3 both.
        faint: a band that is wider than another.
        upper: of a band.
    """

    kind: Kind
    x: tuple[float, ...]
    y: tuple[float, ...]
    label: str = ""
    tone: int = 0
    shade: float | None = None
    dash: int = 0
    faint: bool = False
    upper: tuple[float, ...] = ()


@dataclass(frozen=True)
class Chart:
    """One pair of axes.

    Attributes:
        title: above the chart.  alt: what it shows, in words.
        x_range, y_range: ends of the axes; marks outside are cut off.
        names: labels of the places 0, 1, ... on the x axis, where it has no numbers.
        circle: draw the unit circle, both axes to the same scale.
        rank: the x axis counts states, so that a rank can be marked on it.
        level: a horizontal line that means something, and its label.
        note: what the reader has to know about the marks.
    """

    title: str
    alt: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    x_log: bool = False
    y_log: bool = False
    names: tuple[str, ...] = ()
    circle: bool = False
    rank: bool = False
    level: tuple[float, str] | None = None
    note: str = ""


@dataclass(frozen=True)
class Heat:
    """A matrix of numbers as colours.

    Attributes:
        rows: a name for each row.
        columns: what each column stands for, ascending.
        values: (rows, columns) in decades, 0 the largest; NaN where there is nothing.
        lowest: decades that the darkest colour stands for.
    """

    title: str
    alt: str
    x_label: str
    key: str
    rows: tuple[str, ...]
    columns: tuple[int, ...]
    values: np.ndarray = field(repr=False)
    lowest: float = -6.0


Picture = Chart | Heat


@dataclass(frozen=True)
class Detail:
    """How much of a layer is drawn: points of a line, poles."""

    points: int
    poles: int


FULL, MANY = Detail(220, 400), Detail(80, 110)
MANY_LAYERS = 12  # more than these are drawn with less detail: a page stays small


def numbers(values: Iterable[float] | np.ndarray) -> tuple[float, ...]:
    """Plain floats; what is infinite is a gap."""
    return tuple(float(v) if math.isfinite(v) else math.nan for v in values)


def span(values: Sequence[float] | np.ndarray, log: bool = False, pad: float = 0.04) -> tuple[float, float]:
    """Ends of an axis that shows all finite values (all positive ones on a logarithmic axis)."""
    found = np.asarray(values, dtype=float).ravel()
    found = found[np.isfinite(found) & ((found > 0) | (not log))]
    if not found.size:
        return (0.1, 1.0) if log else (0.0, 1.0)
    low, high = float(found.min()), float(found.max())
    if log:
        low, high = math.log10(low), math.log10(high)
    room = pad * (high - low) or (0.5 if log else 0.5 * abs(high) or 1.0)
    low, high = low - room, high + room
    return (10.0**low, 10.0**high) if log else (low, high)


def decades(values: Sequence[float] | np.ndarray, floor: float, least: float = 1.0) -> tuple[float, float]:
    """Ends of a logarithmic axis at powers of ten, not below `floor` times the largest value."""
    found = np.asarray(values, dtype=float).ravel()
    found = found[np.isfinite(found) & (found > 0)]
    if not found.size:
        return (floor, 1.0)
    top = math.ceil(math.log10(float(found.max())) - 1e-9)
    low = max(math.floor(math.log10(float(found.min())) + 1e-9), math.floor(math.log10(floor)) + top)
    return 10.0 ** min(low, top - least), 10.0**top


def thinned(x: np.ndarray, y: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    """At most `points` points of a line: smallest and largest value of each interval, in their order.

    A line through them covers what a line through all points would.
    """
    if len(x) <= points:
        return x, y
    kept = [0, len(x) - 1]
    for part in np.array_split(np.arange(len(x)), max(1, points // 2 - 1)):
        kept += [int(part[np.argmin(y[part])]), int(part[np.argmax(y[part])])]
    chosen = np.unique(kept)
    return x[chosen], y[chosen]
