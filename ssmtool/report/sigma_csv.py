"""Hankel singular values as CSV, one value a row."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ssmtool.checkpoint.replacing import replacing
from ssmtool.report.facts import scale

if TYPE_CHECKING:
    from ssmtool.pipeline.model import LayerSpectrum

COLUMNS = ("layer", "system", "k", "sigma", "relative")


def save_csv(spectra: Iterable[LayerSpectrum], path: Path) -> None:
    """Write the Hankel singular values of every layer, see `save_values`. Raises OutputError."""
    save_values(((entry.layer.name, entry.spectrum.sigma) for entry in spectra), path)


def save_values(layers: Iterable[tuple[str, np.ndarray]], path: Path) -> None:
    """Write values (S, n) of layers.

    Columns: layer name; system (group of a selective layer), from 0; k, from 1; sigma_k; sigma_k over the largest
    finite value of the system. Infinite values are spelled "inf". Numbers read back as the same float64.

    Raises:
        OutputError: the file cannot be written.
    """
    with replacing(path) as binary:
        file = io.TextIOWrapper(binary, encoding="utf-8", newline="", write_through=True)
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        for name, sigma in layers:
            rows.writerows(_rows(name, sigma))
        file.detach()


def _rows(layer: str, sigma: np.ndarray) -> Iterable[tuple[str, int, int, str, str]]:
    relative = sigma / scale(sigma)
    for system, (values, shares) in enumerate(zip(sigma.tolist(), relative.tolist(), strict=True)):
        for k, (value, part) in enumerate(zip(values, shares, strict=True), start=1):
            yield layer, system, k, repr(value), repr(part)
