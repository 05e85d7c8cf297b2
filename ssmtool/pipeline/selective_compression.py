"""What `compress` did to selective layers, and how it is recorded in the new checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssmtool.families._contract import Layer
from ssmtool.fitting import Fit
from ssmtool.pipeline.tokens import Tokens
from ssmtool.selective.choices import Export, Select
from ssmtool.shown import markdown
from ssmtool.version import __version__


@dataclass(frozen=True)
class SelectiveReduction:
    """What became of one selective layer. All errors are relative.

    Attributes:
        layer: the original layer.
        method: what was done, e.g. "elimination + C-mix + refit".
        states: r.
        predicted: error of the weighted scan output that the calibrated moments predict, before any refit.
        projection: what the best projection to r states would leave by its calibrated values.
        scan_error: measured error of the weighted scan output, on the original's own stream.
        out_error: measured error of what the layer adds, on the original's own stream.
        refit: errors on held-out calibration sequences before and after a refit; None without one.
        bytes_before, bytes_after: of the layer's tensors.
    """

    layer: Layer
    method: str
    states: int
    predicted: float
    projection: float
    scan_error: float
    out_error: float
    refit: Fit | None = None
    bytes_before: int = 0
    bytes_after: int = 0


@dataclass(frozen=True)
class SelectiveCompression:
    """Result of `compress_selective`.

    Attributes:
        source: the input.  output: the new checkpoint (None for a dry run).
        target: what was asked for, e.g. "rank 16".
        export: form of the output.  select: how states were chosen (None for a projection).
        tokens: calibration data.
        refit_steps: optimiser steps per layer, 0 without refit.
        layers: one entry per selective layer.
        bytes_before, bytes_after: tensor bytes of the whole checkpoint.
        source_sha256: hash of the input.
        skipped: files of the input that did not go along.
    """

    source: Path
    output: Path | None
    target: str
    export: Export
    select: Select | None
    tokens: Tokens
    refit_steps: int
    layers: tuple[SelectiveReduction, ...]
    bytes_before: int
    bytes_after: int
    source_sha256: str
    skipped: tuple[str, ...] = ()


def provenance(summary: SelectiveCompression) -> dict[str, Any]:
    """What is written into the new checkpoint's metadata under the key "ssmtool"."""
    return {
        "version": __version__,
        "target": summary.target,
        "export": summary.export.value,
        "select": None if summary.select is None else summary.select.value,
        "refit_steps": summary.refit_steps,
        "calibration": {"tokens": summary.tokens.description, "sha256": summary.tokens.sha256},
        "source_sha256": summary.source_sha256,
        "predicted_error": {row.layer.name: _short(row.predicted) for row in summary.layers},
        "layers": [
            {
                "name": row.layer.name,
                "method": row.method,
                "states": [row.layer.slots, row.states],
                "predicted_error": _short(row.predicted),
                "scan_error": _short(row.scan_error),
                "output_error": _short(row.out_error),
            }
            for row in summary.layers
        ],
    }


def selective_card(summary: SelectiveCompression) -> str:
    """Markdown section for a README.md."""
    lines = [
        "## State reduction",
        "",
        f"Selective layers reduced with ssmtool {__version__} ({summary.target}, {summary.export.value} export, "
        f"calibrated on {markdown(summary.tokens.description)}); tensor bytes {summary.bytes_before:,} → "
        f"{summary.bytes_after:,}; source sha256 `{summary.source_sha256}`.",
        "",
        "| layer | method | states | predicted error | measured error of the scan | of the layer's output |",
        "|---|---|---|---|---|---|",
    ]
    for row in summary.layers:
        lines.append(
            f"| {markdown(row.layer.name)} | {row.method} | {row.layer.slots} → {row.states} | {row.predicted:.2e} "
            f"| {row.scan_error:.2e} | {row.out_error:.2e} |"
        )
    return "\n".join(lines) + "\n"


def _short(value: float) -> float:
    return float(f"{value:.6g}")
