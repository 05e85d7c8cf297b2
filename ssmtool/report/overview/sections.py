"""Panels of `diagnose` as charts of the page."""

from __future__ import annotations

import math
import re

from ssmtool.analyses._contract import Panel
from ssmtool.report.overview.chart import Chart, Kind, Series, decades, numbers, span

NAMED = 6  # more layers than this are told apart by shade
_KINDS: dict[str, Kind] = {"line": "line", "point": "point", "bar": "bar", "step": "step"}


def panel_chart(panel: Panel, section: str) -> Chart:
    """One panel. Layers have a colour each, or a shade each where there are many."""
    many = panel.by_layer and len(panel.curves) > NAMED
    series, xs, ys = [], [], []
    names: tuple[str, ...] = ()
    for place, curve in enumerate(panel.curves):
        if curve.x and isinstance(curve.x[0], str):
            names = tuple(str(x) for x in curve.x)
            x = numbers(range(len(curve.x)))
        else:
            x = numbers(float(v) for v in curve.x)
        y = numbers(curve.y)
        shade = place / (len(panel.curves) - 1) if many else None
        joined = panel.kind == "point" and panel.x_label == "layer" and len(x) > 1
        if joined:
            series.append(Series("line", x, y, curve.label, place, shade, place % 4))
        series.append(Series(_KINDS[panel.kind], x, y, "" if joined else curve.label, place, shade, place % 4))
        xs += x
        ys += [v for v in y if math.isfinite(v)]
    if panel.level is not None:
        ys.append(panel.level[0])
    positive = [y for y in ys if y > 0]
    y_log = panel.y_log and bool(positive) and max(positive) > 10 * min(positive)
    stands = panel.kind in ("bar", "step")
    y_range = decades(ys, 1e-12) if y_log else span([*ys, 0.0] if stands else ys)
    x_range = span(xs, panel.x_log, 0.06 if panel.kind == "point" else 0.03)
    if names:
        x_range = (-0.6, len(names) - 0.4)
    title = plain(panel.title)
    layers = len(panel.curves) if panel.by_layer else 0
    alt = f"{section}: {title}, {plain(panel.y_label)} against {plain(panel.x_label)}"
    return Chart(
        title, alt + (f", {layers} layers" if layers else ""), plain(panel.x_label), plain(panel.y_label),
        tuple(series), x_range, y_range, panel.x_log, y_log, names,
        level=None if panel.level is None else (panel.level[0], plain(panel.level[1])),
    )  # fmt: skip


def plain(text: str) -> str:
    """Matplotlib's mathematics as plain characters: $S_C^T S_B$ is S_Cᵀ S_B."""
    text = text.replace("^T", "ᵀ")
    text = re.sub(r"\\(?:mathrm|text)\{([^}]*)\}", r"\1", text)
    return text.replace("$", "").replace("\\,", " ").replace("\\", "")
