"""The page as one HTML file: template, style and script are files of this package, charts come from svg.py."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import asdict
from importlib.resources import files

import jinja2
from markupsafe import Markup

from ssmtool.report.overview import svg
from ssmtool.report.overview.chart import Chart, Picture
from ssmtool.report.overview.ranks import error_note
from ssmtool.report.overview.safe import script_json
from ssmtool.report.overview.view import Cell, Grid, Ranks, View, grid
from ssmtool.report.text.numbers import sci, size
from ssmtool.shown import NO_BREAK, printable
from ssmtool.version import __version__

_PERCENT = re.compile(r"(?<=\d) %")


def html(view: View) -> str:
    """The whole file. Its security policy allows its own script and style by their hashes, and nothing else."""
    style, script = _asset("report.css"), _asset("report.js")
    environment = jinja2.Environment(
        autoescape=True,
        finalize=_visible,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    return environment.from_string(_asset("report.html.j2")).render(
        view=view,
        version=__version__,
        style=Markup(style),
        script=Markup(script),
        style_hash=Markup(_hash(style)),
        script_hash=Markup(_hash(script)),
        data=Markup(script_json(_data(view.ranks))),
        live=_live(view.ranks),
        draw=svg.draw,
        legend=_legend,
        many=_many,
    )


def _visible(value: object) -> object:
    """What a template writes: plain text with everything invisible spelled out; markup of our own as it is.

    A number stays on the line of its percent sign.
    """
    return _PERCENT.sub(f"{NO_BREAK}%", printable(value, NO_BREAK)) if type(value) is str else value


def _asset(name: str) -> str:
    return (files("ssmtool.report.overview") / "assets" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """As a content security policy names an inline script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _data(ranks: Ranks | None) -> object:
    if ranks is None:
        return {}
    found = asdict(ranks)
    for layer in found["layers"]:
        layer["name"] = printable(layer["name"])
    return found


def _live(ranks: Ranks | None) -> Grid | None:
    """The table that follows the slider, as it stands at the start."""
    if ranks is None:
        return None
    measured = any(layer.measured or (layer.reduced and layer.reduced[1] is not None) for layer in ranks.layers)
    rows = []
    for layer in ranks.layers:
        kept, bound = min(ranks.ranks[ranks.start], layer.order), layer.bound[ranks.start]
        rows.append(
            (
                layer.name,
                Cell(f"{kept} of {layer.order}", float(kept)),
                Cell("–") if bound is None else Cell(sci(bound), bound),
                Cell(size(layer.bytes[ranks.start]), float(layer.bytes[ranks.start])) if layer.bytes else None,
                *((None,) if measured else ()),
            )
        )
    note = error_note(ranks, measured)
    if measured:
        note += " Measured: at the nearest rank not above r where it was."
    columns = ("layer", "states kept", ranks.named, "size", *(("measured",) if measured else ()))
    return grid("Every layer at this rank", columns, rows, (0,), note, "live-table")


def _legend(chart: Picture) -> list[tuple[str, Markup]]:
    return svg.legend(chart) if isinstance(chart, Chart) else []


def _many(chart: Picture) -> str:
    """What the shades mean, where there are too many lines to name."""
    shaded = {series.label for series in getattr(chart, "series", ()) if series.shade is not None and series.label}
    return f"dark to light: {len(shaded)} layers in order" if shaded else ""
