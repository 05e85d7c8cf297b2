"""Calibrated values and predicted errors of selective layers as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ssmtool.report.plain import plain
from ssmtool.report.plot import STYLE, save

if TYPE_CHECKING:
    from ssmtool.pipeline.selective_hsv import LayerCalibration

FLOOR = 1e-6
NAMED = 12  # more lines than this are not named one by one


def save_calibrated_plot(layers: Sequence[LayerCalibration], path: Path, title: str = "") -> None:
    """Draw s_i / s_1 (median over groups) and the predicted error against the states kept, one line per layer.

    Raises:
        OutputError: the file cannot be written.
    """
    with rc_context(STYLE):
        figure = draw(layers, title)
        save(figure, path)


def draw(layers: Sequence[LayerCalibration], title: str = "") -> Figure:
    """The picture, not yet saved."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    lines = [(row.layer.name, spectrum) for row in layers for spectrum in row.spectra]
    colours = colormaps["viridis"](np.linspace(0.0, 0.88, max(len(lines), 2)))  # its last yellows vanish on white
    for (name, spectrum), colour in zip(lines, colours, strict=False):
        relative = np.median(spectrum.values / spectrum.values[:, :1].clip(min=1e-300), axis=0)
        label = plain(name) if len(lines) <= NAMED else None
        left.plot(np.arange(1, len(relative) + 1), relative.clip(FLOOR), color=colour, linewidth=1.3, label=label)
        errors = spectrum.errors[:-1]  # with all states it is zero, which no logarithm has
        right.plot(np.arange(len(errors)), errors.clip(FLOOR), color=colour, linewidth=1.3)
    left.set(title="Calibrated Hankel singular values", xlabel="state, i", ylabel=r"$s_i\,/\,s_1$")
    right.set(title="Predicted relative error of the layer's weighted output", xlabel="states kept, r", ylabel="error")
    for axis in (left, right):
        axis.set_yscale("log")
        axis.set_xlim(left=0)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    if len(lines) <= NAMED:
        left.legend(fontsize=7)
    if title:
        figure.suptitle(plain(title), x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure
