"""From a portrait to the page."""

from __future__ import annotations

import numpy as np

from ssmtool.pipeline.portrait import LayerPortrait, Portrait, states_of
from ssmtool.report.facts import orders
from ssmtool.report.overview.chart import FULL, MANY, MANY_LAYERS, Detail, Picture
from ssmtool.report.overview.comparison import comparison_part
from ssmtool.report.overview.decay import heat_map, layer_decay
from ssmtool.report.overview.diagnosis import diagnosis_parts
from ssmtool.report.overview.provenance import provenance_part
from ssmtool.report.overview.ranks import rank_grid, ranks_of
from ssmtool.report.overview.responses import frequency_chart, impulse_chart, pole_map
from ssmtool.report.overview.view import Cell, Grid, LayerPart, Part, View, grid
from ssmtool.report.overview.words import summary
from ssmtool.report.text.numbers import plural, sci, shape, size, spread


def view(found: Portrait, command: str = "", title: str = "") -> View:
    """The page of a portrait.

    Args:
        found: from `portrait`.
        command: the command line, for the provenance.
        title: heading; by default the checkpoint's name.
    """
    ranks = ranks_of(found)
    detail = FULL if len(found.layers) <= MANY_LAYERS else MANY
    path = found.model.checkpoint.path
    parts = [Part("ranks", "Rank", grids=(rank_grid(ranks),))]
    parts.append(Part("layers", "Layers", words=tuple(found.absent), grids=(_layer_grid(found),)))
    heat = heat_map(found)
    if heat is not None:
        parts.append(Part("heat", "All layers at once", pictures=(heat,), grids=(_heat_grid(heat),), folded=True))
    parts += diagnosis_parts(found)
    comparison = comparison_part(found)
    if comparison is not None:
        parts.append(comparison)
    subtitle = str(path) if found.reduced is None else f"{path} against {found.reduced.checkpoint.path}"
    return View(
        title or path.name or str(path),
        subtitle,
        summary(found, ranks),
        ranks,
        tuple(_layer(row, detail) for row in found.layers),
        tuple(parts),
        provenance_part(found, command),
    )


def _layer(row: LayerPortrait, detail: Detail) -> LayerPart:
    layer = row.layer
    kind = "linear" if layer.lti else "selective"
    made = layer.family if layer.variant == layer.family else f"{layer.family} {layer.variant}"
    per = "system" if layer.lti else "channel"
    facts = (
        f"{made}, {kind}, {shape(layer.systems, layer.inputs, layer.outputs)}, "
        f"{plural(states_of(layer), 'state')} per {per}, {size(row.bytes)}"
    )
    drawn: list[Picture | None] = [
        layer_decay(row, detail),
        pole_map(row, detail),
        impulse_chart(row, detail),
        frequency_chart(row, detail),
    ]
    remarks = [*row.remarks, *([layer.note] if layer.note else [])]
    return LayerPart(layer.name, kind, facts, tuple(p for p in drawn if p is not None), tuple(remarks))


def _layer_grid(found: Portrait) -> Grid:
    """One row a layer."""
    linear = any(row.spectrum is not None for row in found.layers)
    calibrated = any(row.calibration is not None and row.calibration.spectra for row in found.layers)
    times = _half_lives(found)
    columns = ["layer", "family", "systems", "states", "σ₁"]
    columns += ["99 % of Σσ", "bound 0.01", "bound 0.001", "σ = 0", "σ = ∞"] if linear else []
    columns += ["effective size", "for error 10 %", "for error 1 %"] if calibrated else []
    columns += ["half-life", "radius"] if times else []
    columns += ["states kept"] if found.reduced is not None else []
    compared = any(row.partner is not None and row.partner.error is not None for row in found.layers)
    columns += ["H∞ error"] if compared else []
    rows = []
    for row in found.layers:
        layer = row.layer
        cells: list = [
            layer.name,
            layer.family,
            Cell(shape(layer.systems, layer.inputs, layer.outputs), float(layer.systems)),
            states_of(layer),
            _largest(row),
        ]
        if linear:
            cells += _order_cells(row)
        if calibrated:
            cells += _size_cells(row)
        if times:
            cells += [*times.get(layer.name, (None, None))]
        if found.reduced is not None:
            partner = row.partner
            cells.append(None if partner is None else Cell(spread(partner.orders), float(np.median(partner.orders))))
        if compared:
            partner = row.partner
            error = None if partner is None else partner.error
            cells.append(Cell("–") if error is None else Cell(sci(error), error))
        rows.append(cells)
    note = "States per system (per channel, for selective layers)."
    if linear:
        note += " Orders that a share of Σσ or an error bound asks for: median (largest) over the systems."
    if calibrated:
        note += " Effective size: of the states' use on the tokens; for error: states that a predicted error asks for."
    if times:
        note += " Half-life: median over modes, in steps."
    return grid("Every layer", columns, rows, (0, 1), note, "layer-table")


def _largest(row: LayerPortrait) -> Cell:
    if row.spectrum is not None:
        value = float(row.spectrum.sigma.max(initial=0.0))
    elif row.calibration is not None and row.calibration.spectra:
        value = max(float(part.values.max()) for part in row.calibration.spectra)
    else:
        return Cell("–")
    return Cell(sci(value), value)


def _order_cells(row: LayerPortrait) -> list[Cell | None]:
    if row.spectrum is None:
        return [None] * 5
    found = orders(row.spectrum.sigma)
    wanted = [found[name] for name in ("energy_0.99", "error_1e-2", "error_1e-3")]
    counts = [int(row.spectrum.redundant.sum()), int(row.spectrum.unstable.sum())]
    return [*(Cell(spread(v), float(np.median(v))) for v in wanted), *(Cell(str(c), float(c)) for c in counts)]


def _size_cells(row: LayerPortrait) -> list[Cell | None]:
    if row.calibration is None or not row.calibration.spectra:
        return [None] * 3
    parts = row.calibration.spectra
    effective = float(np.mean([part.entropy_size for part in parts]))
    needed = [max(part.size(error) for part in parts) for error in (0.1, 0.01)]
    return [Cell(f"{effective:.1f}", effective), *(Cell(str(n), float(n)) for n in needed)]


def _half_lives(found: Portrait) -> dict[str, tuple[float, float]]:
    """Median half-life and spectral radius by layer, from the section `timescales`."""
    from ssmtool.analyses.timescales import Timescales

    section = None if found.diagnosis is None else found.diagnosis.sections.get("timescales")
    if not isinstance(section, Timescales):
        return {}
    return {row.name: (row.half_life.median, row.radius) for row in section.layers}


def _heat_grid(heat) -> Grid:
    """The heat map as numbers, at a few states."""
    count = len(heat.columns)
    places = sorted({round(i * (count - 1) / 7) for i in range(8)}) if count > 8 else list(range(count))
    rows = []
    for name, values in zip(heat.rows, heat.values, strict=True):
        cells: list = [name]
        for j in places:
            value = float(values[j])
            cells.append(None if np.isnan(value) else Cell(sci(10.0**value), value))
        rows.append(cells)
    return grid("The heat map as numbers", ("layer", *(f"k = {heat.columns[j]}" for j in places)), rows, (0,), heat.key)
