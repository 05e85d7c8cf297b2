"""Charts of one linear layer's dynamics: poles on the unit disk, impulse and frequency responses."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ssmtool.pipeline.portrait import LayerPortrait
from ssmtool.report.overview.chart import FULL, Chart, Detail, Kind, Series, decades, numbers, span, thinned
from ssmtool.report.text.numbers import plural, sci


def pole_map(row: LayerPortrait, detail: Detail = FULL) -> Chart | None:
    """Eigenvalues, both of each pair, inside the unit circle; those of the reduced model as crosses."""
    if row.poles is None:
        return None
    values = row.poles.values
    series = [_points("point", _some(values, detail.poles), "original" if row.reduced_poles is not None else "", 0)]
    if row.reduced_poles is not None:
        series.append(_points("cross", _some(row.reduced_poles.values, detail.poles), "reduced", 1))
    every = np.concatenate([values, *([] if row.reduced_poles is None else [row.reduced_poles.values])])
    reach = max(1.05, min(4.0, 1.05 * float(np.abs(every).max(initial=1.0))))
    outside = int((np.abs(values) >= 1).sum())
    alt = (
        f"Poles of {row.layer.name} on the unit disk: moduli from {np.abs(values).min(initial=1):.4g} to "
        f"{np.abs(values).max(initial=0):.6g}" + (f", {outside} on or outside the circle" if outside else "")
    )
    note = ""
    shown = min(len(values), detail.poles)
    if shown < row.poles.total:
        note = f"{shown:,} of {row.poles.total:,}"
    return Chart(
        "Poles", alt, "real part", "imaginary part", tuple(series), (-reach, reach), (-reach, reach), circle=True,
        note=note,
    )  # fmt: skip


def _some(values: NDArray[np.complexfloating], limit: int) -> NDArray[np.complexfloating]:
    """At most so many, neighbours beside each other: the way between them is short on the page, and in the file."""
    if len(values) > limit:
        values = values[np.linspace(0, len(values) - 1, limit).round().astype(int)]
    return values[np.argsort(np.angle(values), kind="stable")]


def _points(kind: Kind, upper: NDArray[np.complexfloating], label: str, tone: int) -> Series:
    paired = upper[upper.imag > 0]
    both: NDArray[np.complexfloating] = np.concatenate([upper, paired[::-1].conj()])
    return Series(kind, numbers(both.real), numbers(both.imag), label, tone)


def impulse_chart(row: LayerPortrait, detail: Detail = FULL) -> Chart | None:
    """Impulse responses of a few systems, each relative to its own largest value; the reduced model's dashed."""
    found = row.responses
    if found is None:
        return None
    series = []
    ends: list[float] = []
    k = np.arange(found.impulse.shape[1])
    for place, system in enumerate(found.systems):
        peak = float(np.abs(found.impulse[place]).max()) or 1.0
        lines = [(found.impulse[place], 0, _named(row, system))]
        if found.reduced_impulse is not None:
            lines.append((found.reduced_impulse[place], 1, ""))
        for values, dash, label in lines:
            x, y = thinned(k, np.where(np.isfinite(values), values, np.nan) / peak, detail.points)
            series.append(Series("line", numbers(x), numbers(np.clip(y, -50, 50)), label, place, dash=dash))
            ends += [float(v) for v in y if math.isfinite(v)]
    several = len(found.systems) > 1
    what = "hₖ" if found.single else "‖hₖ‖"
    alt = f"Impulse response of {plural(len(found.systems), 'system')} of {row.layer.name} over {len(k)} steps"
    return Chart(
        "Impulse response", alt + _against(found.reduced_impulse is not None), "step, k",
        f"{what} / max {'|hₖ|' if found.single else '‖hₖ‖'}", tuple(series), (0, max(1, len(k) - 1)),
        span(np.clip(ends, -2, 2)), note=_note(found.reduced_impulse is not None, several),
    )  # fmt: skip


def frequency_chart(row: LayerPortrait, detail: Detail = FULL) -> Chart | None:
    """Gains of the same systems relative to their Hankel norms; the reduced model's dashed, the error dotted."""
    found = row.responses
    if found is None:
        return None
    series = []
    shown: list[float] = []
    for place, system in enumerate(found.systems):
        size = float(found.norm[place]) or 1.0
        lines = [(found.gain[place], 0, _named(row, system))]
        if found.reduced_gain is not None and found.error_gain is not None:
            lines += [(found.reduced_gain[place], 1, ""), (found.error_gain[place], 2, "")]
        for values, dash, label in lines:
            x, y = thinned(found.omega, values / size, detail.points)
            series.append(Series("line", numbers(x), numbers(y), label, place, dash=dash))
        shown += (found.gain[place] / size).tolist()
        if found.error_gain is not None:
            shown += [float(np.quantile(found.error_gain[place] / size, 0.1))]
    peak = max((v for v in shown if math.isfinite(v)), default=0.0)
    alt = f"Gain of {row.layer.name} against frequency, at most {sci(peak)} σ₁"
    reduced = found.reduced_gain is not None
    return Chart(
        "Frequency response", alt + _against(reduced), "ω, radians per step", "gain / σ₁", tuple(series),
        (float(found.omega[0]), math.pi), decades(shown, 1e-6), x_log=True, y_log=True,
        note=_note(reduced, len(found.systems) > 1, "; error dotted" if reduced else ""),
    )  # fmt: skip


def _named(row: LayerPortrait, system: int) -> str:
    return f"system {system}" if row.layer.systems > 1 else "original"


def _against(reduced: bool) -> str:
    return ", the reduced model's beside it" if reduced else ""


def _note(reduced: bool, several: bool, more: str = "") -> str:
    which = "largest, median and smallest σ₁" if several else ""
    return "; ".join(part for part in (which, "reduced dashed" + more if reduced else "") if part)
