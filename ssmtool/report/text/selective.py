"""Selective layers as text: calibrated values, and what compression did to them."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ssmtool.report.text.numbers import percent, sci, sizes
from ssmtool.report.text.page import Page

if TYPE_CHECKING:
    from ssmtool.pipeline.selective_compression import SelectiveCompression, SelectiveReduction
    from ssmtool.pipeline.selective_hsv import CalibratedHsv, LayerCalibration

ERRORS = (0.1, 0.01, 0.001)
WITHOUT = "Give --tokens FILE, --text FILE or --self N to measure what the states are used for."


def calibrated_text(path: Path, found: CalibratedHsv, files: Iterable[Path] = (), terminal: bool | None = None) -> str:
    """One row per selective layer: effective sizes, states that errors ask for, errors of half and a quarter."""
    page = Page(terminal)
    if found.tokens is None:
        page.line(f"Selective layers of {path}, from weights alone", "bold")
        page.line()
        columns = ("layer", "channels", "N", "s₁", "static size")
        page.table(columns, (_static_row(row) for row in found.layers))
        page.line()
        page.paragraph(_STATIC)
        page.paragraph(WITHOUT)
        return page.text()
    page.line(f"Calibrated Hankel singular values of {path}", "bold")
    page.line(f"on {found.tokens.description}")
    page.line()
    columns = (
        "layer",
        "channels",
        "N",
        "s₁",
        "effective\nsize",
        *(f"error\n{100 * error:g} %" for error in ERRORS),
        "error at\nN/2",
        "error at\nN/4",
        "static\nsize",
    )
    page.table(columns, (cells for row in found.layers for cells in _calibrated_rows(row)))
    page.line()
    page.paragraph(
        "effective size: exp of the entropy of sᵢ² / Σs². error: the least number of states whose predicted relative "
        "error of the layer's weighted output, √(Σᵢ﹥ᵣ sᵢ² / Σs²), is at most so much; then that error with half and a "
        "quarter of the states. It is that of a projection to r states (compress --export projected); a "
        "selection of states loses more before it is refitted."
    )
    page.paragraph(_STATIC)
    for file in files:
        page.line(f"Wrote {file}")
    return page.text()


_STATIC = "static size: the same entropy for the singular values of the maps to C and B, from weights alone."


def _static_row(row: LayerCalibration) -> list[str]:
    from ssmtool.selective.spectrum import entropy_size

    values = np.concatenate(row.static)
    return [
        row.layer.name,
        str(row.layer.systems),
        str(row.layer.slots),
        sci(float(values.max())),
        f"{entropy_size(values):.1f}",
    ]


def _calibrated_rows(row: LayerCalibration) -> Iterable[list[str]]:
    from ssmtool.selective.spectrum import entropy_size

    for k, spectrum in enumerate(row.spectra):
        states = spectrum.values.shape[1]
        yield [
            row.layer.name + (f" ({k + 1})" if len(row.spectra) > 1 else ""),
            str(row.layer.systems),
            str(states),
            sci(float(spectrum.values.max())),
            f"{spectrum.entropy_size:.1f}",
            *(str(spectrum.size(error)) for error in ERRORS),
            sci(float(spectrum.errors[states // 2])),
            sci(float(spectrum.errors[states // 4])),
            f"{entropy_size(spectrum.static):.1f}",
        ]


def selective_compress_text(done: SelectiveCompression, terminal: bool | None = None) -> str:
    """Per layer what was kept and what it costs; the command that checks the result."""
    page = Page(terminal)
    what = f"{done.source}: {done.target}, {done.export.value} export"
    page.line(what + (", dry run" if done.output is None else ""), "bold")
    page.line(f"calibrated on {done.tokens.description}")
    page.line()
    refitted = any(row.refit is not None for row in done.layers)
    columns = ("layer", "method", "states", "predicted", "scan", "output", *(("refit",) if refitted else ()), "bytes")
    page.table(columns, (_row(row, refitted) for row in done.layers), left=(0, 1))
    page.line()
    page.paragraph(
        "Relative errors. predicted: of the weighted scan output, by the calibrated moments"
        + (", before the refit" if refitted else "")
        + ". scan: the same, measured. output: of what the layer adds to the residual stream. Both are measured on "
        "calibration sequences with the original's own stream as input."
    )
    if refitted:
        page.paragraph(
            "refit: error of the block behind the reduced blocks before it, on calibration sequences left out of the "
            "fit, before → after. Part of a refit's gain is adaptation to the calibration data; validate on other data."
        )
    page.line()
    if done.skipped:
        page.paragraph(f"Not copied: {', '.join(done.skipped)}", hang="  ")
    states = sum(row.layer.systems * row.states for row in done.layers)
    before = sum(row.layer.systems * row.layer.slots for row in done.layers)
    page.line(f"State: {before:,} → {states:,} numbers per sequence ({percent(states, before)})")
    share = percent(done.bytes_after, done.bytes_before)
    page.line(f"Tensors: {sizes(done.bytes_before, done.bytes_after)} ({share})")
    if done.output is None:
        page.line("Nothing was written: run it again without --dry-run.")
    else:
        page.line(f"Wrote {done.output}", "bold")
        command = ["ssmtool", "validate", str(done.source), str(done.output), "--tokens", "HELD_OUT.npy"]
        page.line(f"Next: {shlex.join(command)}")
    return page.text()


def _row(row: SelectiveReduction, refitted: bool) -> list[str]:
    fit = "–" if row.refit is None else f"{sci(math.sqrt(row.refit.before))} → {sci(math.sqrt(row.refit.after))}"
    return [
        row.layer.name,
        row.method,
        f"{row.layer.slots} → {row.states}",
        sci(row.predicted),
        sci(row.scan_error),
        sci(row.out_error),
        *([fit] if refitted else []),
        sizes(row.bytes_before, row.bytes_after),
    ]
