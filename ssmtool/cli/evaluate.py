"""ssmtool evaluate: accuracy of reference models on a task."""

from __future__ import annotations

from typing import Annotated

import typer

from ssmtool import plugins
from ssmtool.cli import _complete
from ssmtool.cli._options import (
    CHECKPOINT,
    DataOption,
    Device,
    DeviceOption,
    FamilyOption,
    JsonOption,
    checked_device,
    examples,
    quiet_option,
)
from ssmtool.cli._output import emit
from ssmtool.cli._progress import Bar

EXAMPLES = examples(
    "ssmtool evaluate digits-s4d.safetensors",
    "ssmtool evaluate digits-s4d.safetensors digits-s4d-rank16.safetensors --task digits --json",
)


def command(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help=f"Checkpoints: {CHECKPOINT}.", show_default=False)
    ],
    task: Annotated[
        str,
        typer.Option(
            "--task",
            metavar="NAME[:OPTION=VALUE,...]",
            autocompletion=_complete.tasks,
            help=f"What to classify: {', '.join(plugins.names(_complete.TASKS))}; options of each: docs/train.md.",
        ),
    ] = "digits",
    data: DataOption = None,
    family: FamilyOption = None,
    device: DeviceOption = Device.auto,
    json: JsonOption = False,
    quiet: Annotated[bool, quiet_option("only the accuracies, one a line")] = False,
) -> None:
    """Measure the accuracy of reference models on a task.

    Classifies the test part of the task with each checkpoint. Checkpoints are reference models as in fixtures/,
    reduced or not; their layers may have any state sizes.
    """
    where = checked_device(device)
    import torch

    from ssmtool.pipeline.model import load
    from ssmtool.training.evaluate import evaluate

    if where == "auto":
        where = "cuda" if torch.cuda.is_available() else "cpu"
    checkpoints, results = [load(model, family=family).checkpoint for model in models], []
    with Bar(quiet) as bar:
        for count, checkpoint in enumerate(checkpoints):
            bar.step(checkpoint.path.name, count, len(checkpoints), "checkpoints")
            results.append(evaluate(checkpoint, task, where, data))
    if json:
        from ssmtool.report.documents import evaluate_document
        from ssmtool.report.json_text import json_text

        options = {"task": task, "data": data, "family": family, "device": device.value}
        emit(json_text(evaluate_document(checkpoints, results, options)))
    elif quiet:
        emit("\n".join(f"{result.accuracy:.4f}" for result in results))
    else:
        from ssmtool.report.text.evaluate import evaluate_text

        emit(evaluate_text(checkpoints, results))
