"""The pictures of `ssmtool plot`, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ssmtool.errors import UsageError
from ssmtool.pipeline.portrait import LayerPortrait, Portrait
from ssmtool.report.overview.chart import Chart, Picture
from ssmtool.report.overview.decay import all_decays, heat_map
from ssmtool.report.overview.responses import frequency_chart, impulse_chart, pole_map
from ssmtool.report.overview.sections import panel_chart

MOST = 12  # layers that have a panel of their own

# kind -> parts of a portrait it needs, sections of diagnose it needs
NEEDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "sigma": (("spectra",), ()),
    "poles": (("poles",), ()),
    "impulse": (("responses",), ()),
    "frequency": (("responses",), ()),
    "heatmap": (("spectra",), ()),
    "timescales": (("diagnosis",), ("timescales",)),
    "tokens": (("diagnosis",), ("token_dynamics",)),
}
_LAYERS: dict[str, Callable[[LayerPortrait], Chart | None]] = {
    "poles": pole_map,
    "impulse": impulse_chart,
    "frequency": frequency_chart,
}
_TOKENS = "Give --tokens FILE, --text FILE or --self N"


def pictures(found: Portrait, kind: str) -> list[Picture]:
    """What is drawn for a kind.

    Raises:
        UsageError: nothing of the kind can be drawn of these layers, or too many layers want a panel of their own.
    """
    if kind == "sigma":
        both = all_decays(found.layers)
        if both is None:
            raise UsageError("calibrated values of selective layers need tokens", remedy=_TOKENS)
        return list(both)
    if kind == "heatmap":
        heat = heat_map(found)
        return [] if heat is None else [heat]
    if kind in _LAYERS:
        rows = [row for row in found.layers if row.layer.lti]
        if not rows:
            raise UsageError(f"--kind {kind} is for linear layers, and none is selected")
        if len(rows) > MOST:
            raise UsageError(
                f"--kind {kind} draws a panel for each of {len(rows)} layers, more than {MOST}",
                remedy="Select some with --layer GLOB",
            )
        charts = [(row.layer.name, _LAYERS[kind](row)) for row in rows]
        return [replace(chart, title=name) for name, chart in charts if chart is not None]
    sections = {} if found.diagnosis is None else found.diagnosis.sections
    drawn = [panel_chart(panel, kind) for name in NEEDS[kind][1] for panel in sections[name].panels()]
    if not drawn:
        raise UsageError(f"there is nothing to draw for --kind {kind}: it is for selective layers", remedy=_TOKENS)
    return list(drawn)
