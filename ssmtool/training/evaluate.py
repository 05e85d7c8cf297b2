"""Accuracy of a reference model's checkpoint on a task."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import torch

from ssmtool import plugins
from ssmtool.checkpoint import Checkpoint, open_checkpoint
from ssmtool.errors import CheckpointError, MismatchError, UsageError
from ssmtool.reference.model import build
from ssmtool.training.loop import logits_of
from ssmtool.training.tasks._contract import PACKAGE, open_task

TASKS = plugins.names(PACKAGE)


@dataclass(frozen=True)
class Evaluation:
    """What a model does on the test part of a task.

    Attributes:
        task: its name and options.
        accuracy: correct / total, in [0, 1].
        correct: sequences classified right.
        total: sequences in the test part.
        parameters: numbers stored in the checkpoint.
        state_slots: stored complex state slots over all layers and channels, what the model carries from one time
            step to the next.
        seconds: wall time of the forward passes.
    """

    task: str
    accuracy: float
    correct: int
    total: int
    parameters: int
    state_slots: int
    seconds: float


def evaluate(
    checkpoint: str | os.PathLike[str] | Checkpoint,
    task: str = "digits",
    device: str = "cpu",
    data: str | os.PathLike[str] | None = None,
) -> Evaluation:
    """Classify the test part of `task` in float32; deterministic on a given machine.

    Args:
        checkpoint: file or folder holding a reference model, reduced or not, in any format the tool reads; or one
            already open.
        task: one of TASKS, with options where it has them: ``listops:max_length=128``.
        device: a torch device.
        data: folder with the files of a task that reads any; default: $SSMTOOL_DATA.

    Raises:
        UsageError: unknown task, option or device; files that are needed and not there.
        CheckpointError: the file cannot be read, or the model's outputs are not finite.
        FamilyError, MismatchError: the tensors are not of a reference model, or of one for another task.
    """
    target = checked_device(device)
    opened = open_task(task, None if data is None else os.fspath(data))
    source = checkpoint if isinstance(checkpoint, Checkpoint) else open_checkpoint(os.fspath(checkpoint))
    where = str(source.path)
    model = build({name: source.read(name) for name in source.tensors}, where=where).float().to(target)
    sizes = model.sizes
    if (sizes.inputs, sizes.classes) != (opened.inputs, opened.classes):
        raise MismatchError(
            f"the model maps {sizes.inputs} numbers per step to {sizes.classes} classes, "
            f"task {opened.name} is {opened.inputs} to {opened.classes}",
            where=where,
        )
    inputs, labels = opened.load("test")
    start = time.perf_counter()
    logits = logits_of(model, opened, inputs, target)
    seconds = time.perf_counter() - start
    if not torch.isfinite(logits).all():
        raise CheckpointError("the model's outputs are not finite", where=where)
    correct = int((logits.argmax(dim=-1) == labels).sum())
    return Evaluation(
        task=opened.spec,
        accuracy=correct / len(labels),
        correct=correct,
        total=len(labels),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        state_slots=model.state_slots(),
        seconds=seconds,
    )


def checked_device(name: str) -> torch.device:
    """The torch device, tried out: torch accepts names of devices that are not there. Raises UsageError."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"no device {name!r}: {str(error).splitlines()[0]}") from error
    return device
