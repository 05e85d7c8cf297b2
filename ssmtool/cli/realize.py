"""ssmtool realize: state-space models of impulse responses."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ssmtool.cli._options import Device, DeviceOption, JsonOption, checked_device, examples, quiet_option
from ssmtool.cli._output import emit
from ssmtool.cli._progress import Bar

EXAMPLES = examples(
    "ssmtool realize kernel.npy --rank 16",
    "ssmtool realize kernels.npz --tensor 'layers.*' --error 1e-2 -o model.safetensors",
    "ssmtool realize longconv.safetensors --tensor 'layers.*.kernel' --axes pSL --rank 64",
    "ssmtool realize response.csv --energy 0.999 --method era --dry-run --json",
)


class Method(str, Enum):
    """How a response becomes a model."""

    best = "best"
    balanced = "balanced"
    era = "era"
    aak = "aak"


class Precision(str, Enum):
    """What is written."""

    float32 = "float32"
    float64 = "float64"


def command(
    kernel: Annotated[
        str,
        typer.Argument(
            metavar="KERNEL",
            help="Impulse responses: .npy, .npz, numbers in .csv or .txt, or tensors of a checkpoint.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="Checkpoint to write, .safetensors; must not exist. Default: beside KERNEL, its name followed by the "
            "target.",
        ),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(
            "--rank", metavar="N", help="States per system, at most; a complex conjugate pair of modes counts two."
        ),
    ] = None,
    energy: Annotated[
        float | None,
        typer.Option(
            "--energy", metavar="SHARE", help="Share of the sum of Hankel singular values to keep, between 0 and 1."
        ),
    ] = None,
    error: Annotated[
        float | None,
        typer.Option(
            "--error",
            metavar="X",
            help="Largest H-infinity error of a system, measured, relative to its largest Hankel singular value.",
        ),
    ] = None,
    method: Annotated[
        Method,
        typer.Option(
            "--method",
            help="balanced: of the response that ends after its last lag, with a bound. era: what comes after the last "
            "lag is left free. aak: optimal in the Hankel norm, with a D. best: per system the one with the least "
            "error over the lags, or the fewest states for --error.",
        ),
    ] = Method.best,
    tensors: Annotated[
        list[str] | None,
        typer.Option(
            "--tensor",
            "--key",
            metavar="NAME",
            help="Arrays of a .npz or tensors of a checkpoint, a name or a glob; may be repeated.",
        ),
    ] = None,
    axes: Annotated[
        str | None,
        typer.Option(
            "--axes",
            metavar="LETTERS",
            help="One letter per axis: S systems, p outputs, m inputs, L lags. Default: L, SL, pmL or SpmL.",
        ),
    ] = None,
    feedthrough: Annotated[
        bool, typer.Option("--feedthrough", help="Keep lag 0 as the feedthrough D and realise the lags after it.")
    ] = False,
    dtype: Annotated[
        Precision | None,
        typer.Option(
            "--dtype", help="What is written. Default: float32 for responses in single precision or less, else float64."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Compute and report everything, write nothing.")] = False,
    device: DeviceOption = Device.auto,
    json: JsonOption = False,
    quiet: Annotated[bool, quiet_option("only the path of what was written")] = False,
) -> None:
    """Turn impulse responses into state-space layers.

    Long-convolution kernels, FIR filters or any recorded impulse response become a checkpoint in the neutral format,
    which every other sub-command opens. Give exactly one of --rank, --energy and --error. The report shows what the
    model costs, and what no model with as many states can avoid.
    """
    where = checked_device(device)
    from ssmtool.pipeline.realise import realize

    with Bar(quiet) as bar:
        done = realize(
            kernel,
            output,
            rank=rank,
            energy=energy,
            error=error,
            method=method.value,
            tensors=tensors,
            axes=axes,
            feedthrough=feedthrough,
            dtype=None if dtype is None else dtype.value,
            dry_run=dry_run,
            device=where,
            step=bar.step,
        )
    if json:
        from ssmtool.report.json_text import json_text
        from ssmtool.report.realize_document import realize_document

        targets = {"rank": rank, "energy": energy, "error": error, "method": method.value}
        how = {"tensors": tensors, "axes": axes, "feedthrough": feedthrough, "dtype": dtype and dtype.value}
        options = {**targets, **how, "output": output, "dry_run": dry_run, "device": device.value}
        emit(json_text(realize_document(done, options)))
    elif quiet:
        emit(str(done.output or ""))
    else:
        from ssmtool.report.text.realize import realize_text

        emit(realize_text(done))
