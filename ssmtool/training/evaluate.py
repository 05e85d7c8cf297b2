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

PACKAGE = "ssmtool.training.tasks"
TASKS = plugins.names(PACKAGE)
BATCH = 256


@dataclass(frozen=True)
class Evaluation:
    """What a model does on the test part of a task.

    Attributes:
        task: its name.
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


def evaluate(checkpoint: str | os.PathLike[str] | Checkpoint, task: str = "digits", device: str = "cpu") -> Evaluation:
    """Classify the test part of `task` in float32; deterministic on a given machine.

    Args:
        checkpoint: file or folder holding a reference model, reduced or not, in any format the tool reads; or one
            already open.
        task: one of TASKS.
        device: a torch device.

    Raises:
        UsageError: unknown task or device.
        CheckpointError: the file cannot be read, or the model's outputs are not finite.
        FamilyError, MismatchError: the tensors are not of a reference model, or of one for another task.
    """
    if task not in TASKS:
        raise UsageError(f"no task {task!r}", remedy=f"Known tasks: {', '.join(TASKS)}")
    target = _device(device)
    module = plugins.load(PACKAGE, task)
    source = checkpoint if isinstance(checkpoint, Checkpoint) else open_checkpoint(os.fspath(checkpoint))
    where = str(source.path)
    model = build({name: source.read(name) for name in source.tensors}, where=where).float().to(target)
    sizes = model.sizes
    if (sizes.inputs, sizes.classes) != (module.INPUTS, module.CLASSES):
        raise MismatchError(
            f"the model maps {sizes.inputs} numbers per step to {sizes.classes} classes, "
            f"task {task} is {module.INPUTS} to {module.CLASSES}",
            where=where,
        )
    inputs, labels = (tensor.to(target) for tensor in module.load("test"))
    start = time.perf_counter()
    with torch.inference_mode():
        logits = torch.cat([model(part) for part in inputs.split(BATCH)])
    seconds = time.perf_counter() - start
    if not torch.isfinite(logits).all():
        raise CheckpointError("the model's outputs are not finite", where=where)
    correct = int((logits.argmax(dim=-1) == labels).sum())
    return Evaluation(
        task=task,
        accuracy=correct / len(labels),
        correct=correct,
        total=len(labels),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        state_slots=model.state_slots(),
        seconds=seconds,
    )


def _device(name: str) -> torch.device:
    """The torch device, tried out: torch accepts names of devices that are not there."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"no device {name!r}: {str(error).splitlines()[0]}") from error
    return device
