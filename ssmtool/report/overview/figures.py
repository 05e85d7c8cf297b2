"""Charts drawn with Matplotlib, in whatever style is set: for PDF reports and for papers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps, rcParams
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import FixedLocator, NullLocator

from ssmtool.report.overview.axes import marked_columns, ticks
from ssmtool.report.overview.chart import Chart, Heat, Picture, Series
from ssmtool.shown import printable

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")
ASPECT = 0.72  # height of a panel over its width
_NAMED = 24  # characters of a layer's name beside a heat map


def draw(
    pictures: Sequence[Picture], width: float, height: float | None = None, per_row: int = 2, title: str = ""
) -> Figure:
    """The pictures side by side in one figure.

    Args:
        pictures: at least one.
        width: inches.
        height: inches; by default what the pictures need.
        per_row: panels in a row, at most.
        title: above all of them.
    """
    columns = min(per_row, len(pictures))
    head = 1.8 * _points("figure.titlesize") / 72 if title else 0.0
    if height is None:
        height = head + sum(row_height(row, width, columns) for row in in_rows(pictures, columns))
    figure = Figure(figsize=(width, height))
    if title:
        figure.suptitle(printable(title), x=0.02, y=1 - 0.3 * head / height, ha="left", va="top")
    fill(figure, pictures, columns, (0.0, 0.0, width, height - head))
    return figure


def in_rows(pictures: Sequence[Picture], columns: int) -> list[Sequence[Picture]]:
    """The pictures in rows of so many columns; the last may be shorter."""
    return [pictures[i : i + columns] for i in range(0, len(pictures), columns)]


def row_height(row: Sequence[Picture], width: float, columns: int) -> float:
    """Inches that a row needs."""
    return max(_height(picture, width / columns) for picture in row)


def fill(figure: Figure, pictures: Sequence[Picture], columns: int, box: tuple[float, float, float, float]) -> None:
    """Draw the pictures into a part of a figure.

    Axes are placed by the sizes of what is written beside them, not by a solver, whose last digits vary.

    Args:
        box: left, bottom, width and height in inches.
    """
    whole_width, whole_height = figure.get_size_inches()
    rows = in_rows(pictures, columns)
    needed = [row_height(row, box[2], columns) for row in rows]
    top = box[1] + box[3]
    for row, share in zip(rows, needed, strict=True):
        height = box[3] * share / sum(needed)
        around = [margins(picture, box[2] / columns) for picture in row]
        below, above = max(m[1] for m in around), max(m[3] for m in around)
        for k, (picture, (left, _, right, _)) in enumerate(zip(row, around, strict=True)):
            x = box[0] + k * box[2] / columns + left
            w = max(0.3, box[2] / columns - left - right)
            h = max(0.3, height - below - above)
            y = top - above - h
            axis = figure.add_axes((x / whole_width, y / whole_height, w / whole_width, h / whole_height))
            if isinstance(picture, Heat):
                bar = figure.add_axes(
                    ((x + w + 0.08) / whole_width, y / whole_height, 0.12 / whole_width, h / whole_height)
                )
                _heat(axis, bar, picture)
            else:
                _chart(axis, picture, w)
        top -= height


def margins(picture: Picture, width: float) -> tuple[float, float, float, float]:
    """Inches left of, below, right of and above a pair of axes for ticks, labels and titles."""
    small, label, tick = _points("x-small") / 72, _points("axes.labelsize") / 72, _points("ytick.labelsize") / 72
    if isinstance(picture, Heat):
        longest = max(len(_short(name)) for name in picture.rows)
        return 0.15 + 0.62 * small * longest, 2.6 * tick + 0.8 * label, 0.38 + 2.2 * tick + 1.3 * label, 0.6 * label
    marks = ticks(picture.y_range, picture.y_log, 5 if picture.circle else 6)
    longest = max((len(text) for _, text in marks), default=1)
    names = 0.35 * small * max(map(len, picture.names), default=0)
    above = 1.9 * _points("axes.titlesize") / 72 + 0.9 * small * len(_said(picture))
    return 0.17 + 1.5 * label + 0.62 * tick * longest, 2.2 * tick + 1.4 * label + names, 0.12 + 0.3 * tick, above


def _points(size: str) -> float:
    """A font size of the style, or a relative one, in points."""
    known: Any = rcParams
    return FontProperties(size=known.get(size, size)).get_size_in_points()


def _said(chart: Chart) -> list[str]:
    """What stands above the axes in small print."""
    shaded = {s.label for s in chart.series if s.shade is not None and s.label}
    return [
        *([f"dark to light: {len(shaded)} layers in order"] if shaded else []),
        *([chart.note] if chart.note else []),
    ]


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= _NAMED else "…" + name[1 - _NAMED :]


def _height(picture: Picture, width: float) -> float:
    if isinstance(picture, Heat):
        return min(9.0, 0.9 + max(1.2, 0.15 * len(picture.rows)))
    left, below, right, above = margins(picture, width)
    return (width - left - right) * (1.0 if picture.circle else ASPECT) + below + above


def shades() -> Colormap:
    """The style's colour map without its last, lightest part, which vanishes on white."""
    return LinearSegmentedColormap.from_list(
        "layers", list(colormaps[rcParams["image.cmap"]](np.linspace(0, 0.88, 256)))
    )


def _chart(axis: Axes, chart: Chart, width: float) -> None:
    cycle = [entry["color"] for entry in rcParams["axes.prop_cycle"] if "color" in entry] or ["black"]
    for series in chart.series:
        colour = cycle[series.tone % len(cycle)] if series.shade is None else shades()(series.shade)
        _series(axis, chart, series, colour)
    if chart.circle:
        turn = np.linspace(0, 2 * np.pi, 361)
        axis.plot(np.cos(turn), np.sin(turn), color="0.4", linewidth=0.7, zorder=1)
        axis.set_aspect("equal")
    if chart.level is not None:
        axis.axhline(chart.level[0], color="0.4", linewidth=0.7, linestyle=":")
    said = _said(chart)
    axis.set_title(printable(chart.title), pad=rcParams["axes.titlepad"] + 0.9 * _points("x-small") * len(said))
    axis.set_xlabel(printable(chart.x_label))
    axis.set_ylabel(printable(chart.y_label))
    _scale(axis, chart, 4 if width < 2 else 6)
    labels = _labels(chart)
    if len(labels) > 1:
        place = "center" if chart.circle else "best"
        axis.legend(fontsize="x-small", loc=place, frameon=True, framealpha=0.75, edgecolor="none", borderpad=0.2)
    axis.annotate(
        "\n".join(map(printable, said)), (0, 1), xytext=(0, 3), xycoords="axes fraction", textcoords="offset points",
        ha="left", va="bottom", fontsize="xx-small", color="0.35",
    )  # fmt: skip


def _labels(chart: Chart) -> list[str]:
    return list(dict.fromkeys(s.label for s in chart.series if s.label and s.shade is None))


def _series(axis: Axes, chart: Chart, series: Series, colour) -> None:
    label = printable(series.label) if series.label and series.shade is None else None
    x, y = np.array(series.x), np.array(series.y)
    if chart.y_log:
        y = np.where(y > 0, y, np.nan)
    if series.kind == "band":
        alpha = 0.13 if series.faint else 0.26
        axis.fill_between(x, y, np.array(series.upper), color=colour, alpha=alpha, linewidth=0)
    elif series.kind == "bar":
        signs = [colour if value >= 0 else "0.45" for value in series.y]
        axis.bar(x, y, width=0.7, color=signs, label=label)
    elif series.kind == "step":
        axis.step(x, y, where="mid", color=colour, linestyle=DASHES[series.dash], label=label)
    elif series.kind == "point":
        mark = MARKERS[series.dash % len(MARKERS)] if len(x) <= 64 else "."
        axis.plot(x, y, linestyle="", marker=mark, markersize=3, color=colour, alpha=0.8, label=label)
    elif series.kind == "cross":
        axis.plot(x, y, linestyle="", marker="x", markersize=3.5, markeredgewidth=0.9, color=colour, label=label)
    else:
        axis.plot(x, y, color=colour, linestyle=DASHES[series.dash], label=label)


def _scale(axis: Axes, chart: Chart, most: int) -> None:
    """Scales, ends and ticks: the same as on the page."""
    if chart.x_log:
        axis.set_xscale("log")
    if chart.y_log:
        axis.set_yscale("log")
    axis.set_xlim(*chart.x_range)
    axis.set_ylim(*chart.y_range)
    for one, ends, log, whole in (
        (axis.xaxis, chart.x_range, chart.x_log, chart.rank or chart.x_label == "layer"),
        (axis.yaxis, chart.y_range, chart.y_log, False),
    ):
        found = ticks(ends, log, 5 if chart.circle else most, whole)
        one.set_major_locator(FixedLocator([value for value, _ in found]))
        one.set_ticklabels([text for _, text in found])
        one.set_minor_locator(NullLocator())
    if chart.names:
        axis.set_xticks(range(len(chart.names)), [printable(name) for name in chart.names])


def _heat(axis: Axes, bar: Axes, heat: Heat) -> None:
    """Layers from above to below."""
    shown = np.ma.masked_invalid(heat.values)
    mesh = axis.imshow(shown, aspect="auto", vmin=heat.lowest, vmax=0, interpolation="nearest")
    step = max(1, math.ceil(len(heat.rows) / 24))
    axis.set_yticks(range(0, len(heat.rows), step), [_short(name) for name in heat.rows[::step]], fontsize="x-small")
    places = marked_columns(heat.columns, 7)
    axis.set_xticks(places, [str(heat.columns[j]) for j in places])
    axis.set_xlabel(heat.x_label)
    axis.grid(False)
    bar.figure.colorbar(mesh, cax=bar).set_label(f"log₁₀ of {heat.key}")
    bar.grid(False)
