"""ssmtool train: reference models on a task, with and without a regulariser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ssmtool import plugins
from ssmtool.cli import _complete
from ssmtool.cli._options import DataOption, Device, JsonOption, checked_device, examples, quiet_option
from ssmtool.cli._output import emit
from ssmtool.cli._progress import Bar

EXAMPLES = examples(
    "ssmtool train --task digits --model s4d --reg hankel:1e-4 -o runs/digits-s4d",
    "ssmtool train --task listops:min_length=8,max_length=64 --model s5 -o runs/listops-s5",
    "ssmtool train --resume -o runs/digits-s4d",
)


def command(
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="DIR", help="Folder of the run: new, or one to continue."),
    ],
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            metavar="NAME[:OPTION=VALUE,...]",
            autocompletion=_complete.tasks,
            help=f"What to learn: {', '.join(plugins.names(_complete.TASKS))}; options of each: docs/train.md.",
            show_default="digits",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME",
            autocompletion=_complete.layouts,
            help=f"Layers and tensor names: {', '.join(plugins.names(_complete.LAYOUTS))}.",
            show_default="s4d",
        ),
    ] = None,
    reg: Annotated[
        str | None,
        typer.Option(
            "--reg",
            metavar="KIND:WEIGHT[,OPTION=VALUE]",
            help="Added to the loss: hankel, hankel-log, hankel-tail, hankel-entropy or modal-l1, with its weight.",
            show_default="none",
        ),
    ] = None,
    truncate: Annotated[
        str | None,
        typer.Option(
            "--truncate",
            metavar="energy:SHARE@TIME,...",
            help="Truncate the layers after TIME, a share of the training, to SHARE of the energy; or order:N@TIME.",
            show_default="none",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in DIR, with its settings; there has to be one.")
    ] = False,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", min=0, help="Of all that is random.", show_default="0")
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", metavar="N", min=1, help="Passes over the data.")] = None,
    width: Annotated[int | None, typer.Option("--width", metavar="H", min=1, help="Channels.")] = None,
    depth: Annotated[int | None, typer.Option("--depth", metavar="N", min=1, help="Layers.")] = None,
    slots: Annotated[
        int | None,
        typer.Option("--slots", metavar="N", min=1, help="Stored modes per system, half its order."),
    ] = None,
    batch: Annotated[int | None, typer.Option("--batch", metavar="N", min=1, help="Sequences per step.")] = None,
    rate: Annotated[float | None, typer.Option("--rate", metavar="R", help="Peak learning rate.")] = None,
    state_rate: Annotated[
        float | None, typer.Option("--state-rate", metavar="R", help="Peak learning rate of state-space parameters.")
    ] = None,
    dropout: Annotated[float | None, typer.Option("--dropout", metavar="P", help="Probability.")] = None,
    data: DataOption = None,
    device: Annotated[
        Device | None,
        typer.Option("--device", help="Where to compute; auto takes CUDA if there is a device.", show_default="auto"),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", metavar="N", min=1, help="Of the CPU.", show_default="1")
    ] = None,
    json: JsonOption = False,
    quiet: Annotated[bool, quiet_option("only the path of the checkpoint")] = False,
) -> None:
    """Train a reference model on a task.

    Writes model.safetensors, which every other command reads, metrics.jsonl, run.json and state.pt into DIR. A run that
    was killed goes on where it stood when the same command is given again, or with --resume.
    """
    given: dict[str, Any] = {
        "task": task,
        "model": model,
        "reg": reg,
        "truncate": truncate,
        "seed": seed,
        "epochs": epochs,
        "width": width,
        "depth": depth,
        "slots": slots,
        "batch": batch,
        "rate": rate,
        "state_rate": state_rate,
        "dropout": dropout,
        "device": None if device in (None, Device.auto) else checked_device(device),
        "threads": threads,
    }
    from ssmtool.training.run import run_training

    settings = {name: value for name, value in given.items() if value is not None}
    with Bar(quiet) as bar:
        done = run_training(output, settings, resume=resume, data=data, progress=bar.step)
    if json:
        from ssmtool.report.json_text import json_text
        from ssmtool.report.train_document import train_document

        emit(json_text(train_document(done)))
    elif quiet:
        emit(str(done.checkpoint))
    else:
        from ssmtool.report.text.train import train_text

        emit(train_text(done))
