"""ssmtool hsv: the Hankel singular values of every layer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssmtool.cli._options import (
    Device,
    DeviceOption,
    FamilyOption,
    JsonOption,
    LayerOption,
    ModelArgument,
    checked_device,
    examples,
    quiet_option,
)
from ssmtool.cli._output import checked_file, emit
from ssmtool.cli._progress import Bar

EXAMPLES = examples(
    "ssmtool hsv model.safetensors",
    "ssmtool hsv model.safetensors --plot hsv.svg --csv hsv.csv",
    "ssmtool hsv model.safetensors --layer layers.0 --json | jq '.layers[0].sigma[0]'",
)


def command(
    model: ModelArgument,
    layers: LayerOption = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot", metavar="FILE", help="Draw the values and the error bounds of every layer: .svg, .png or .pdf."
        ),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE", help="Write every value, one a row: layer, system, k, sigma, relative."),
    ] = None,
    family: FamilyOption = None,
    device: DeviceOption = Device.auto,
    json: JsonOption = False,
    quiet: Annotated[bool, quiet_option("nothing, only write the files asked for")] = False,
) -> None:
    """Compute the Hankel singular values of every layer.

    The values are those of the real input-output systems as stored. They say how many states a layer needs: dropping
    all but the first r states by balanced truncation costs at most 2 (sigma_r+1 + ... + sigma_n) in the H-infinity
    norm. A table shows, per layer, the smallest r for a share of the sum of the values and for an error relative to
    sigma_1.
    """
    plot = checked_file(plot, "--plot", (".svg", ".png", ".pdf"))
    csv = checked_file(csv, "--csv", (".csv",))
    where = checked_device(device)
    from ssmtool.pipeline.model import load

    found = load(model, family=family)
    skipped = [layer for layer in found.select(layers) if not layer.lti]
    with Bar(quiet) as bar:
        spectra = found.hsv(layers, device=where, progress=bar.layer)
    if plot is not None:
        from ssmtool.report.plot import save_plot

        save_plot(spectra, plot, title=found.checkpoint.path.name)
    if csv is not None:
        from ssmtool.report.sigma_csv import save_csv

        save_csv(spectra, csv)
    if json:
        from ssmtool.report.documents import hsv_document
        from ssmtool.report.json_text import json_text

        options = {"layers": layers, "family": family, "device": device.value, "plot": plot, "csv": csv}
        emit(json_text(hsv_document(found, spectra, skipped, options)))
    elif not quiet:
        from ssmtool.report.text.hsv import hsv_text

        emit(hsv_text(found, spectra, skipped, [file for file in (plot, csv) if file is not None]))
