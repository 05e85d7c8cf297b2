"""Hankel singular values as text: what state sizes they allow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ssmtool.report.facts import ENERGIES, ERRORS, orders
from ssmtool.report.text.notes import add_notes
from ssmtool.report.text.numbers import sci, shape, spread
from ssmtool.report.text.page import Page

if TYPE_CHECKING:
    from ssmtool.families._contract import Layer
    from ssmtool.pipeline.model import LayerSpectrum, Model

_TARGETS = (
    *(f"{100 * share:g} %\nof Σσ" for share in ENERGIES),
    *("error\n" + f"{error:.0e}".replace("e-0", "e-") for error in ERRORS),
)


def hsv_text(
    model: Model,
    spectra: Sequence[LayerSpectrum],
    skipped: Iterable[Layer] = (),
    files: Iterable[Path] = (),
    terminal: bool | None = None,
) -> str:
    """One row per layer: size, largest value, orders that targets ask for, redundant and unstable states."""
    page = Page(terminal)
    unstable = any(entry.spectrum.unstable.any() for entry in spectra)
    columns = ("layer", "systems", "order", "σ₁", *_TARGETS, "σ = 0", *(("σ = ∞",) if unstable else ()))
    page.line(f"Hankel singular values of {model.checkpoint.path}", "bold")
    page.line()
    page.table(columns, (_row(entry, unstable) for entry in spectra))
    page.line()
    page.paragraph(
        "Orders are states of the real input-output system, per system: as stored; the smallest that keep a share of "
        "the sum of the values; the smallest whose error bound 2Σσₖ, k > order, is at most error × σ₁. σ₁ is the "
        "largest of the layer."
    )
    if any(entry.layer.systems > 1 for entry in spectra):
        page.paragraph("12 (18): median (largest) over the systems of a layer.")
    page.paragraph("σ = 0: exactly redundant states, total over the systems of a layer.")
    if unstable:
        page.paragraph(
            "σ = ∞: states with an eigenvalue on or outside the unit circle, total; they can be neither measured nor "
            "dropped, and the shares are those of the rest."
        )
    add_notes(page, ((layer.name, "input-dependent, so without Hankel singular values: skipped") for layer in skipped))
    for file in files:
        page.line(f"Wrote {file}")
    return page.text()


def _row(entry: LayerSpectrum, unstable: bool) -> list[str]:
    layer, spectrum = entry.layer, entry.spectrum
    return [
        layer.name,
        shape(layer.systems, layer.inputs, layer.outputs),
        str(layer.order),
        sci(float(spectrum.sigma.max(initial=0.0))),
        *(spread(found) for found in orders(spectrum.sigma).values()),
        str(int(spectrum.redundant.sum())),
        *([str(int(spectrum.unstable.sum()))] if unstable else []),
    ]
