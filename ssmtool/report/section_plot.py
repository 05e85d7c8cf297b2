"""The panels of a section of a diagnosis as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ssmtool.report.plain import plain
from ssmtool.report.plot import STYLE, save

if TYPE_CHECKING:
    from ssmtool.analyses._contract import Curve, Panel

NAMED = 8  # more layers than this are not named one by one in a legend
WIDTH, HEIGHT, PER_ROW = 4.6, 3.6, 3

# Okabe-Ito colours and markers: told apart with every common colour blindness, and in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")


def save_section(panels: Sequence[Panel], path: Path, title: str = "") -> None:
    """Draw the panels side by side. The same input gives the same bytes.

    Args:
        panels: at least one.
        path: .svg, .png or .pdf.
        title: of the picture.

    Raises:
        OutputError: the file cannot be written.
    """
    with rc_context(STYLE):
        figure = draw(panels, title)
        save(figure, path)


def draw(panels: Sequence[Panel], title: str = "") -> Figure:
    """The picture, not yet saved."""
    columns = min(PER_ROW, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(WIDTH * columns, HEIGHT * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, panel in zip(axes, panels, strict=False):
        _panel(axis, panel)
    for axis in axes[len(panels) :]:
        axis.remove()
    if title:
        figure.suptitle(plain(title), x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure


def _panel(axis: Axes, panel: Panel) -> None:
    for place, curve in enumerate(panel.curves):
        _curve(axis, panel, curve, place)
    if panel.level is not None:
        value, label = panel.level
        axis.axhline(value, color="#555555", linewidth=0.8, linestyle=":", label=label or None)
    axis.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
    values = np.array([y for curve in panel.curves for y in curve.y if math.isfinite(y)])
    if panel.x_log:
        axis.set_xscale("log")
    positive = values[values > 0]
    if panel.y_log and len(positive) and positive.max() > 10 * positive.min():
        axis.set_yscale("log", nonpositive="mask")
    elif panel.kind == "step":
        axis.set_ylim(bottom=0)
    if panel.x_label == "layer":
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axis.margins(y=0.22)  # room for the legend
    labelled = [curve for curve in panel.curves if curve.label]
    if panel.by_layer and len(panel.curves) > NAMED:
        order = f"dark to light: {len(panel.curves)} layers in order"
        axis.text(1.0, 1.01, order, transform=axis.transAxes, ha="right", va="bottom", fontsize=6)
    elif labelled:
        axis.legend(fontsize=7, frameon=True, framealpha=0.8, edgecolor="none")


def _curve(axis: Axes, panel: Panel, curve: Curve, place: int) -> None:
    many = panel.by_layer
    shade = colormaps["viridis"](0.88 * place / max(len(panel.curves) - 1, 1))  # its last yellows vanish on white
    colour = shade if many else COLOURS[place % len(COLOURS)]
    named = not many or len(panel.curves) <= NAMED
    style = {"color": colour, "label": plain(curve.label) if named and curve.label else None}
    dash = DASHES[place % len(DASHES)]
    if panel.kind == "bar":
        signs = [COLOURS[0] if y >= 0 else COLOURS[1] for y in curve.y]
        axis.bar(list(range(len(curve.x))) if isinstance(curve.x[0], str) else list(curve.x), curve.y, color=signs)
    elif panel.kind == "step":
        axis.step(curve.x, curve.y, where="mid", linewidth=1.3, linestyle=dash, **style)
    elif panel.kind == "point":
        joined = panel.x_label == "layer" and not many
        axis.plot(
            curve.x,
            curve.y,
            marker=MARKERS[place % len(MARKERS)],
            markersize=4,
            linewidth=0.8,
            linestyle=dash if joined else "",
            **style,
        )
    else:
        mark = "." if len(curve.x) <= 24 else ""
        axis.plot(curve.x, curve.y, linewidth=1.3, marker=mark, linestyle=dash, **style)
