"""Charts drawn with Matplotlib, in whatever style is set: for PDF reports and for papers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps, rcParams
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FixedLocator, NullLocator

from ssmtool.report.overview.axes import ticks
from ssmtool.report.overview.chart import Chart, Heat, Picture, Series
from ssmtool.report.overview.safe import printable

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")
ASPECT = 0.72  # height of a panel over its width
_NAMED = 24  # characters of a layer's name beside a heat map


def draw(pictures: Sequence[Picture], width: float, height: float | None = None, per_row: int = 2) -> Figure:
    """The pictures side by side in one figure.

    Args:
        pictures: at least one.
        width: inches.
        height: inches; by default what the pictures need.
        per_row: panels in a row, at most.
    """
    columns = min(per_row, len(pictures))
    if height is None:
        height = sum(row_height(row, width, columns) for row in in_rows(pictures, columns))
    figure = Figure(figsize=(width, height), layout="constrained")
    fill(figure, pictures, columns)
    return figure


def in_rows(pictures: Sequence[Picture], columns: int) -> list[Sequence[Picture]]:
    """The pictures in rows of so many columns; the last may be shorter."""
    return [pictures[i : i + columns] for i in range(0, len(pictures), columns)]


def row_height(row: Sequence[Picture], width: float, columns: int) -> float:
    """Inches that a row needs."""
    return max(_height(picture, width / columns) for picture in row)


def fill(figure: Figure | SubFigure, pictures: Sequence[Picture], columns: int) -> None:
    """Draw the pictures into a figure or a part of one."""
    axes = figure.subplots(math.ceil(len(pictures) / columns), columns, squeeze=False).ravel()
    for axis, picture in zip(axes, pictures, strict=False):
        if isinstance(picture, Heat):
            _heat(figure, axis, picture)
        else:
            _chart(axis, picture)
    for axis in axes[len(pictures) :]:
        axis.set_axis_off()


def _height(picture: Picture, width: float) -> float:
    if isinstance(picture, Heat):
        return min(9.0, 0.9 + max(1.2, 0.15 * len(picture.rows)))
    if picture.circle:
        return width * 0.95
    return width * ASPECT + 0.09 * math.ceil(len(_labels(picture)) / 2)


def shades() -> Colormap:
    """The style's colour map without its last, lightest part, which vanishes on white."""
    return LinearSegmentedColormap.from_list(
        "layers", list(colormaps[rcParams["image.cmap"]](np.linspace(0, 0.88, 256)))
    )


def _chart(axis: Axes, chart: Chart) -> None:
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
    axis.set_title(printable(chart.title))
    axis.set_xlabel(printable(chart.x_label))
    axis.set_ylabel(printable(chart.y_label))
    _scale(axis, chart)
    labels = _labels(chart)
    if len(labels) > 1:
        place = "center" if chart.circle else "best"
        axis.legend(fontsize="x-small", loc=place, frameon=True, framealpha=0.75, edgecolor="none", borderpad=0.2)
    shaded = {s.label for s in chart.series if s.shade is not None and s.label}
    said = [f"dark to light: {len(shaded)} layers in order"] if shaded else []
    said += [chart.note] if chart.note else []
    if said:
        axis.text(
            1.0, 1.015, "\n".join(map(printable, said)), transform=axis.transAxes, ha="right", va="bottom",
            fontsize="xx-small", color="0.35",
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


def _scale(axis: Axes, chart: Chart) -> None:
    """Scales, ends and ticks: the same as on the page."""
    if chart.x_log:
        axis.set_xscale("log")
    if chart.y_log:
        axis.set_yscale("log")
    axis.set_xlim(*chart.x_range)
    axis.set_ylim(*chart.y_range)
    narrow = 4 if axis.get_figure(root=True).get_size_inches()[0] < 4 else 6
    for one, ends, log, whole in (
        (axis.xaxis, chart.x_range, chart.x_log, chart.rank or chart.x_label == "layer"),
        (axis.yaxis, chart.y_range, chart.y_log, False),
    ):
        found = ticks(ends, log, 5 if chart.circle else narrow, whole)
        one.set_major_locator(FixedLocator([value for value, _ in found]))
        one.set_ticklabels([text for _, text in found])
        one.set_minor_locator(NullLocator())
    if chart.names:
        axis.set_xticks(range(len(chart.names)), [printable(name) for name in chart.names])


def _heat(figure: Figure | SubFigure, axis: Axes, heat: Heat) -> None:
    """Layers from above to below."""
    shown = np.ma.masked_invalid(heat.values)
    mesh = axis.imshow(shown, aspect="auto", vmin=heat.lowest, vmax=0, interpolation="nearest")
    names = [printable(name) for name in heat.rows]
    short = [name if len(name) <= _NAMED else "…" + name[1 - _NAMED :] for name in names]
    step = max(1, math.ceil(len(names) / 24))
    axis.set_yticks(range(0, len(names), step), short[::step], fontsize="x-small")
    count = len(heat.columns)
    places = sorted({round(k * (count - 1) / 6) for k in range(7)})
    axis.set_xticks(places, [str(heat.columns[j]) for j in places])
    axis.set_xlabel(heat.x_label)
    axis.grid(False)
    bar = figure.colorbar(mesh, ax=axis, aspect=25, pad=0.02)
    bar.set_label(f"log₁₀ of {heat.key}")
    bar.ax.grid(False)
