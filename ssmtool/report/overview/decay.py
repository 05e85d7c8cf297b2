"""Charts of Hankel singular values: decay and bound of one layer, all layers as lines, all layers as a heat map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ssmtool.pipeline.portrait import LayerPortrait, Portrait
from ssmtool.report.curves import Band, curves
from ssmtool.report.facts import scale
from ssmtool.report.overview.chart import FULL, Chart, Detail, Heat, Series, decades, numbers
from ssmtool.report.text.numbers import plural, sci

FLOOR = 1e-12  # of the largest value: no axis goes further down
COLUMNS = 96  # of the heat map, at most
LOWEST = -8.0  # decades of the heat map


def layer_decay(row: LayerPortrait, detail: Detail = FULL) -> Chart | None:
    """sigma_k / sigma_1 and the bound of a linear layer; calibrated values and predicted error of a selective one."""
    if row.spectrum is not None:
        return _linear_decay(row, detail)
    if row.calibration is not None and row.calibration.spectra:
        return _calibrated_decay(row)
    return None


def _linear_decay(row: LayerPortrait, detail: Detail) -> Chart:
    from ssmtool.pipeline.model import LayerSpectrum

    assert row.spectrum is not None
    found = curves(LayerSpectrum(row.layer, row.spectrum))
    sigma, bound = _thin(found.sigma, detail), _thin(found.bound, detail)
    several = found.systems > 1
    series = [*_bands(bound, 1, several), *_bands(sigma, 0, several)]
    series += [
        Series("line", numbers(sigma.x), numbers(sigma.median), "σₖ/σ₁", 0),
        Series("line", numbers(bound.x), numbers(bound.median), "bound 2Σσ/σ₁ with k states kept", 1, dash=1),
    ]
    shown = np.concatenate([sigma.quantiles[2], bound.quantiles[2], sigma.quantiles[3], bound.quantiles[3]])
    half = found.order // 2
    at_half = float(found.sigma.median[half - 1]) if half else float("nan")
    alt = (
        f"Hankel singular values of {found.name}, {plural(found.systems, 'system')} of order {found.order}: the median "
        f"falls from 1 to {sci(at_half)} at state {half}"
    )
    note = "; ".join(found.remarks)
    if several:
        note = "median, 10–90 % and all systems" + (f"; {note}" if note else "")
    return Chart(
        "Decay", alt, "states, k", "relative to σ₁", tuple(series), (0, max(found.order, 1)),
        decades(shown, FLOOR), y_log=True, rank=True, note=note,
    )  # fmt: skip


def _calibrated_decay(row: LayerPortrait) -> Chart:
    assert row.calibration is not None
    series = []
    shown: list[float] = []
    for k, spectrum in enumerate(row.calibration.spectra):
        which = f" ({k + 1})" if len(row.calibration.spectra) > 1 else ""
        relative = np.median(spectrum.values / spectrum.values[:, :1].clip(min=1e-300), axis=0)
        states = np.arange(1, len(relative) + 1)
        error = spectrum.errors[:-1]
        series.append(Series("line", numbers(states), numbers(relative), f"sₖ/s₁{which}", 0, dash=2 * k))
        series.append(
            Series("line", numbers(range(len(error))), numbers(error), f"predicted error with k kept{which}", 1, dash=1)
        )
        shown += [*relative.tolist(), *error.tolist()]
    states = row.layer.slots
    size = max(spectrum.size(0.01) for spectrum in row.calibration.spectra)
    alt = (
        f"Calibrated Hankel singular values of {row.layer.name}, {states} states: {size} are predicted to leave an "
        "error of 1 %"
    )
    return Chart(
        "Decay", alt, "states, k", "relative", tuple(series), (0, states), decades(shown, FLOOR), y_log=True, rank=True
    )


def _thin(band: Band, detail: Detail) -> Band:
    """Fewer states, at equal distances: the curves fall smoothly."""
    if len(band.x) <= detail.points:
        return band
    chosen = np.unique(np.linspace(0, len(band.x) - 1, detail.points).round().astype(int))
    return Band(band.x[chosen], band.quantiles[:, chosen])


def _bands(band: Band, tone: int, several: bool) -> list[Series]:
    if not several:
        return []
    x, q = numbers(band.x), band.quantiles
    return [
        Series("band", x, numbers(q[0]), tone=tone, upper=numbers(q[4]), faint=True),
        Series("band", x, numbers(q[1]), tone=tone, upper=numbers(q[3])),
    ]


def medians(row: LayerPortrait) -> tuple[str, np.ndarray, str] | None:
    """(name, (n,) relative values: median over systems or groups, what they are) of a layer."""
    if row.spectrum is not None:
        sigma = row.spectrum.sigma / scale(row.spectrum.sigma)
        finite = np.where(np.isinf(sigma), np.nan, sigma)
        with np.errstate(all="ignore"):
            return row.layer.name, _nanmedian(finite), "σ"
    if row.calibration is None:
        return None
    calibrated = [part.values for part in row.calibration.spectra]
    values = np.concatenate(calibrated or list(row.calibration.static))
    return row.layer.name, np.median(values / values[:, :1].clip(min=1e-300), axis=0), "s" if calibrated else "static"


def _nanmedian(values: np.ndarray) -> np.ndarray:
    """Median of the finite entries of each column, NaN where there are none."""
    out = np.full(values.shape[1], np.nan)
    for k, column in enumerate(values.T):
        finite = column[np.isfinite(column)]
        if finite.size:
            out[k] = np.median(finite)
    return out


def heat_map(found: Portrait) -> Heat | None:
    """log10 of the relative values, layers × k."""
    rows = [entry for entry in map(medians, found.layers) if entry is not None]
    if not rows:
        return None
    most = max(len(values) for _, values, _ in rows)
    columns = np.arange(1, most + 1)
    if most > COLUMNS:
        columns = np.unique(np.geomspace(1, most, COLUMNS).round().astype(int))
    values = np.full((len(rows), len(columns)), np.nan)
    for i, (_, relative, _) in enumerate(rows):
        inside = columns <= len(relative)
        with np.errstate(divide="ignore"):
            logs = np.log10(relative[columns[inside] - 1])
        values[i, inside] = np.where(np.isneginf(logs), LOWEST, logs)
    kinds = {kind for *_, kind in rows}
    what = {"σ": "σₖ / σ₁", "s": "calibrated sₖ / s₁", "static": "sₖ / s₁ of the weights"}
    key = ", ".join(what[kind] for kind in ("σ", "s", "static") if kind in kinds)
    finite = values[np.isfinite(values)]
    lowest = float(np.clip(np.floor(finite.min(initial=-1.0)), LOWEST, -1.0))
    small = [(name, int((relative > 1e-2).sum())) for name, relative, _ in rows]
    least, most_of = min(small, key=lambda r: r[1]), max(small, key=lambda r: r[1])
    alt = (
        f"Heat map of {plural(len(rows), 'layer')}: values above a hundredth of the largest number {least[1]} in "
        f"{least[0]} (fewest) and {most_of[1]} in {most_of[0]} (most)"
    )
    return Heat(
        "Decay of every layer", alt, "state, k", key, tuple(name for name, *_ in rows),
        tuple(int(c) for c in columns), values, lowest,
    )  # fmt: skip


def all_decays(rows: Sequence[LayerPortrait]) -> tuple[Chart, Chart] | None:
    """Values and bounds (or predicted errors) of all layers, one line a layer."""
    values, bounds = [], []
    shown: list[list[float]] = [[], []]
    longest = 1
    for place, row in enumerate(rows):
        chart = layer_decay(row)
        if chart is None:
            continue
        lines = [series for series in chart.series if series.kind == "line"]
        for series in lines:
            bound = series.tone == 1
            few = len(rows) <= 6
            look = Series(
                "line", series.x, series.y, row.layer.name, place if few else 0,
                None if few else place / (len(rows) - 1), place % 4,
            )  # fmt: skip
            (bounds if bound else values).append(look)
            shown[bound] += [y for y in series.y if np.isfinite(y)]
            longest = max(longest, int(chart.x_range[1]))
    if not values:
        return None
    linear = any(row.spectrum is not None for row in rows)
    first = Chart(
        "Hankel singular values" if linear else "Calibrated Hankel singular values",
        f"Relative values of {plural(len(values), 'layer')} against the state",
        "state, k", "σₖ / σ₁" if linear else "sₖ / s₁", tuple(values), (0, longest), decades(shown[0], FLOOR),
        y_log=True,
    )  # fmt: skip
    second = Chart(
        "Error bound" if linear else "Predicted error",
        f"Relative error bounds of {plural(len(bounds), 'layer')} against the states kept",
        "states kept, r", "2 Σσ / σ₁" if linear else "error", tuple(bounds), (0, longest), decades(shown[1], FLOOR),
        y_log=True,
    )  # fmt: skip
    return first, second
