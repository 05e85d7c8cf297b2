"""ssmtool validate: does the reduced checkpoint do what the original does, within its bound?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ssmtool.cli._options import (
    CHECKPOINT,
    Device,
    DeviceOption,
    FamilyOption,
    JsonOption,
    LayerOption,
    checked_device,
    examples,
    quiet_option,
)
from ssmtool.cli._output import emit
from ssmtool.cli._progress import Bar

EXAMPLES = examples(
    "ssmtool validate model.safetensors model-rank16.safetensors",
    "ssmtool validate model.safetensors model-rank16.safetensors --max-error 0.01",
    "ssmtool validate model.safetensors model-rank16.safetensors --inputs recorded.npy",
)


def command(
    original: Annotated[
        str, typer.Argument(metavar="ORIGINAL", help=f"Checkpoint before: {CHECKPOINT}.", show_default=False)
    ],
    reduced: Annotated[
        str, typer.Argument(metavar="REDUCED", help="Checkpoint after, of the same kinds.", show_default=False)
    ],
    inputs: Annotated[
        Path | None,
        typer.Option(
            "--inputs",
            metavar="FILE.npy",
            help="Drive the layers with these inputs instead: (steps), (steps, channels) "
            "or (sequences, steps, channels).",
        ),
    ] = None,
    length: Annotated[
        int, typer.Option("--length", metavar="N", min=1, help="Time steps of the noise, impulse and step inputs.")
    ] = 1024,
    max_error: Annotated[
        float | None,
        typer.Option(
            "--max-error",
            metavar="X",
            help="Also fail when a layer's output error, relative to its output, exceeds this.",
        ),
    ] = None,
    layers: LayerOption = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Of the noise.")] = 0,
    family: FamilyOption = None,
    device: DeviceOption = Device.auto,
    json: JsonOption = False,
    quiet: Annotated[bool, quiet_option("nothing, only the reasons of a failure on standard error")] = False,
) -> None:
    """Check a reduced checkpoint against its original.

    Runs both side by side and checks the error of every layer against its bound.

    Exit code 1 when a layer exceeds its bound or --max-error. Also measured: how well the float32 scan and convolution
    agree with a float64 reference, and how long the scan takes before and after.
    """
    where = checked_device(device)
    from ssmtool.errors import UsageError
    from ssmtool.pipeline.model import load
    from ssmtool.pipeline.validate import validate

    if max_error is not None and not 0 <= max_error < float("inf"):
        raise UsageError(f"--max-error {max_error:g} is not a number from 0 up")
    before, after = load(original, family=family), load(reduced, family=family)
    with Bar(quiet) as bar:
        result = validate(
            before,
            after,
            length=length,
            inputs=inputs,
            max_error=max_error,
            layers=layers,
            seed=seed,
            device=where,
            progress=bar.layer,
        )
    if json:
        from ssmtool.report.documents import validate_document
        from ssmtool.report.json_text import json_text

        options = {"inputs": inputs, "length": length, "max_error": max_error, "layers": layers, "seed": seed}
        emit(json_text(validate_document(before, after, result, {**options, "family": family, "device": device.value})))
    elif quiet:
        for layer in result.layers:
            if not layer.passed:
                print(f"ssmtool: {layer.name}: {layer.reason}", file=sys.stderr)
    else:
        from ssmtool.report.text.validate import validate_text

        emit(validate_text(before, after, result))
    if not result.passed:
        raise typer.Exit(1)
