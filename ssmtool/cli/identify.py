"""ssmtool identify: a state-space system from recorded inputs and outputs."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ssmtool.cli._options import JsonOption, examples, quiet_option
from ssmtool.cli._output import emit
from ssmtool.cli._progress import Bar

EXAMPLES = examples(
    "ssmtool identify input.npy output.npy",
    "ssmtool identify input.npy output.npy --order 4 -o model.safetensors",
    "ssmtool identify u.csv y.csv --order 8 --holdout 0.3 --json | jq '.held_out_fit'",
)


class Precision(str, Enum):
    """What is written."""

    float32 = "float32"
    float64 = "float64"


def command(
    inputs: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT",
            help="Recorded inputs, (L,), (L, channels) or (sequences, L, channels): .npy, .npz, .csv or .txt.",
            show_default=False,
        ),
    ],
    outputs: Annotated[
        Path, typer.Argument(metavar="OUTPUT", help="Recorded outputs, likewise, step by step.", show_default=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="Checkpoint to write, .safetensors; must not exist. Default: beside OUTPUT, its name followed by the "
            "order.",
        ),
    ] = None,
    order: Annotated[
        int | None,
        typer.Option("--order", metavar="N", help="States. Default: where the singular values fall most."),
    ] = None,
    horizon: Annotated[
        int | None,
        typer.Option(
            "--horizon",
            metavar="N",
            help="Steps of past and of future that are related to each other. Default: the order and 2, at least 15, "
            "less where the record is short.",
        ),
    ] = None,
    holdout: Annotated[
        float,
        typer.Option(
            "--holdout", metavar="SHARE", help="Share of every sequence, at its end, kept back to measure the fit."
        ),
    ] = 0.2,
    dtype: Annotated[
        Precision | None,
        typer.Option(
            "--dtype", help="What is written. Default: float32 for records in single precision or less, else float64."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Compute and report everything, write nothing.")] = False,
    json: JsonOption = False,
    quiet: Annotated[bool, quiet_option("only the path of what was written")] = False,
) -> None:
    """Identify a state-space system from recorded inputs and outputs.

    Subspace identification: MOESP, N4SID and CVA are tried, and the system that simulates the records best is written
    in the neutral format, which every other sub-command opens. The report shows the singular values that the order is
    read from, and the fit on a part of the records that was kept back.
    """
    from ssmtool.pipeline.identify import identify_files

    with Bar(quiet) as bar:
        done = identify_files(
            inputs,
            outputs,
            output,
            order=order,
            horizon=horizon,
            holdout=holdout,
            dtype=None if dtype is None else dtype.value,
            dry_run=dry_run,
            step=bar.step,
        )
    if json:
        from ssmtool.report.identify_document import identify_document
        from ssmtool.report.json_text import json_text

        how = {"order": order, "horizon": horizon, "holdout": holdout, "dtype": dtype and dtype.value}
        emit(json_text(identify_document(done, {**how, "output": output, "dry_run": dry_run})))
    elif quiet:
        emit(str(done.output or ""))
    else:
        from ssmtool.report.text.identify import identify_text

        emit(identify_text(done))
