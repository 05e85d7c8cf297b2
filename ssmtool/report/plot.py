"""Hankel singular values and error bounds as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator

from ssmtool.checkpoint.replacing import replacing
from ssmtool.report.curves import Band, Curves, curves
from ssmtool.report.plain import plain

if TYPE_CHECKING:
    from matplotlib.cm import ScalarMappable

    from ssmtool.pipeline.model import LayerSpectrum

FLOOR = 1e-20  # no axis goes further down, whatever underflows
PANELS = 12  # more layers than this share one panel
PER_ROW = 4

# Okabe-Ito colours: told apart with every common colour blindness.
SIGMA, BOUND = "#0072B2", "#D55E00"

RELATIVE = r"$\sigma_k\,/\,\sigma_1$"
TAIL = r"$2\,\Sigma_{k>r}\,\sigma_k\,/\,\sigma_1$"

STYLE: Any = {
    "svg.hashsalt": "ssmtool",  # ids in the file depend on its content alone
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "savefig.dpi": 150,
}
UNDATED = {".svg": {"Date": None, "Creator": "ssmtool"}, ".pdf": {"CreationDate": None}, ".png": {}}


def save_plot(spectra: Sequence[LayerSpectrum], path: Path, title: str = "") -> None:
    """Draw sigma_k / sigma_1 and the bound 2 * sum_{k > r} sigma_k / sigma_1 of every layer.

    Up to twelve layers have panels of their own with the median over the systems, the middle 80 % and the range; more
    share one panel, one median per layer. The same input gives the same bytes.

    Args:
        path: .svg, .png or .pdf.
        title: of the picture.

    Raises:
        OutputError: the file cannot be written.
    """
    with rc_context(STYLE):
        figure = draw(spectra, title)
        save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a picture whole or not at all, in the format of the suffix. Raises OutputError."""
    suffix = path.suffix.lower()
    settle(figure)
    with replacing(path) as file:
        figure.savefig(file, format=suffix[1:], metadata=UNDATED[suffix])


def settle(figure: Figure) -> None:
    """Lay the figure out once, and leave every pair of axes there, to a millionth of the figure.

    The layout's solver adds in the order in which its variables lie in memory: its last digits are no promise, and a
    file would show them.
    """
    engine = figure.get_layout_engine()
    if engine is None:
        return
    engine.execute(figure)
    figure.set_layout_engine("none")
    for axis in figure.axes:
        left, bottom, width, height = (round(float(x), 6) for x in axis.get_position(original=True).bounds)
        axis.set_position((left, bottom, width, height))


def draw(spectra: Sequence[LayerSpectrum], title: str = "") -> Figure:
    """The picture, not yet saved."""
    layers = [curves(entry) for entry in spectra]
    bands = [band for layer in layers for band in (layer.sigma, layer.bound)]
    low = _lowest(bands, together=len(layers) > PANELS)
    figure = _separate(layers, low) if len(layers) <= PANELS else _together(layers, low)
    if title:
        figure.suptitle(plain(title), x=0.01, ha="left", fontsize=10, fontweight="bold")
    if len(layers) <= PANELS and any((band.positive() < low).any() for band in bands):
        figure.text(0.99, 0.995, f"values below {low:.0e} not shown", ha="right", va="top", fontsize=7)
    return figure


def _lowest(bands: Sequence[Band], together: bool) -> float:
    """Lower end of the logarithmic axes, a power of ten: a few systems of tiny values do not squeeze all others."""
    shown = np.concatenate([band.median if together else band.quantiles[1] for band in bands])
    smallest = float(shown[np.isfinite(shown) & (shown > 0)].min(initial=0.1))
    return max(FLOOR, float(10.0 ** np.floor(np.log10(smallest))))


def _separate(layers: Sequence[Curves], low: float) -> Figure:
    """Two panels per layer: values above, bounds below. One layer: side by side."""
    if len(layers) == 1:
        figure = Figure(figsize=(8, 3.6), layout="constrained")
        axes = figure.subplots(1, 2, squeeze=False)
        pairs = [(axes[0, 0], axes[0, 1])]
        first = {0}
    else:
        columns = min(PER_ROW, len(layers))
        blocks = -(-len(layers) // columns)
        figure = Figure(figsize=(1.2 + 2.5 * columns, 0.6 + 4.2 * blocks), layout="constrained")
        axes = figure.subplots(2 * blocks, columns, squeeze=False, sharey=True)
        places = [(2 * (i // columns), i % columns) for i in range(len(layers))]
        pairs = [(axes[row, column], axes[row + 1, column]) for row, column in places]
        first = {i for i, (_, column) in enumerate(places) if column == 0}
        for spare in range(len(layers), blocks * columns):
            for row in (0, 1):
                axes[2 * (spare // columns) + row, spare % columns].remove()
    high = 2 * max(float(np.nanmax(band.quantiles, initial=1.0)) for c in layers for band in (c.sigma, c.bound))
    pad = 16 if any(layer.remarks for layer in layers) else 6
    for i, (layer, (upper, lower)) in enumerate(zip(layers, pairs, strict=True)):
        _panel(upper, layer.sigma, SIGMA)
        _panel(lower, layer.bound, BOUND)
        upper.set_title(plain(layer.name), pad=pad)
        upper.text(0, 1.02, ", ".join(layer.remarks), transform=upper.transAxes, fontsize=7, va="bottom")
        upper.set_xlabel("state, k")
        lower.set_xlabel("states kept, r")
        if i in first:
            upper.set_ylabel(RELATIVE)
            lower.set_ylabel(f"bound  {TAIL}")
        for axis in (upper, lower):
            axis.set_ylim(low, high)
    if any(layer.systems > 1 for layer in layers):
        _legend(figure)
    return figure


def _panel(axis: Axes, band: Band, color: str) -> None:
    """Median line and bands of one layer; a zero lies below the axis."""
    smallest, tenth, median, ninetieth, largest = band.quantiles
    axis.set_yscale("log", nonpositive="clip")
    if not np.array_equal(smallest, largest, equal_nan=True):
        axis.fill_between(band.x, smallest, largest, color=color, alpha=0.15, linewidth=0)
        axis.fill_between(band.x, tenth, ninetieth, color=color, alpha=0.3, linewidth=0)
    axis.plot(band.x, median, color=color, linewidth=1.4, marker="." if band.x.size <= 16 else "")
    axis.set_xlim(0, 1.02 * max(1, band.x.size))
    _ticks(axis)


def _together(layers: Sequence[Curves], low: float) -> Figure:
    """One panel of values and one of bounds; the layer's place is the colour."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    figure = Figure(figsize=(10, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    shades = colormaps["viridis"](np.linspace(0.0, 0.92, 256))  # its last yellows vanish on white
    colours = LinearSegmentedColormap.from_list("layers", list(shades))
    key = ScalarMappable(Normalize(0, len(layers) - 1), colours)
    for place, layer in enumerate(layers):
        color = colours(place / (len(layers) - 1))
        left.plot(layer.sigma.x, layer.sigma.median, color=color, linewidth=1.0)
        right.plot(layer.bound.x, layer.bound.median, color=color, linewidth=1.0)
    several = ", median over systems" if any(layer.systems > 1 for layer in layers) else ""
    left.set(title=f"Hankel singular values{several}", xlabel="state, k", ylabel=RELATIVE)
    right.set(title=f"Error bound{several}", xlabel="states kept, r", ylabel=TAIL)
    for axis in (left, right):
        axis.set_yscale("log", nonpositive="clip")
        axis.set_ylim(bottom=low)
        axis.set_xlim(0, 1.02 * max(layer.order for layer in layers))
        _ticks(axis)
    _colour_bar(figure, key, right, layers)
    missing = [layer for layer in layers if layer.remarks]
    if missing:
        left.text(0.02, 0.02, f"{len(missing)} layers have states with σ = 0 or ∞: not drawn", transform=left.transAxes)
    return figure


def _colour_bar(figure: Figure, key: ScalarMappable, axis: Axes, layers: Sequence[Curves]) -> None:
    """Which colour is which layer: at most eight of their names."""
    places = np.unique(np.linspace(0, len(layers) - 1, 8).round().astype(int))
    bar = figure.colorbar(key, ax=axis, ticks=places.tolist(), aspect=30)
    bar.ax.set_yticklabels([plain(layers[place].name) for place in places], fontsize=7)
    bar.ax.invert_yaxis()
    bar.ax.grid(False)


def _ticks(axis: Axes) -> None:
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axis.yaxis.set_major_locator(LogLocator(numticks=8))


def _legend(figure: Figure) -> None:
    grey = "#555555"
    handles = [
        Line2D([], [], color=grey, linewidth=1.4, label="median over systems"),
        Patch(color=grey, alpha=0.45, linewidth=0, label="10–90 %"),
        Patch(color=grey, alpha=0.15, linewidth=0, label="smallest to largest"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8)
