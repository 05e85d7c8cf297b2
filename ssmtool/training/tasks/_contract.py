"""What a task file provides, and how a task is asked for: ``name`` or ``name:option=value,...``.

A task module defines
    SUMMARY: str                    one line
    INPUTS: int                     numbers per step; of a task of tokens, the size of the vocabulary
    CLASSES, LENGTH: int            classes; steps of the longest sequence
    load(part) -> (inputs, labels)  of "train", "validation" or "test"; labels (n,) int64, and inputs one of
                                      (n, L, INPUTS) float32: numbers,
                                      (n, L) int16: tokens in [0, INPUTS), PADDING behind the end of each sequence
and, where it has them,
    OPTIONS: dict[str, int]         options with their defaults; `load` then takes ``options=``
    check(options)                  raises UsageError for options that make no sense
    inputs(options) -> int          where INPUTS depends on them
    FILES: str                      the files a user must have, in words; `load` then takes ``data=``
    RECIPE: dict[str, ...]          what differs from the defaults of Recipe
    augment(inputs, generator, strength) -> inputs
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F

from ssmtool import plugins
from ssmtool.errors import DataError, UsageError

PACKAGE = "ssmtool.training.tasks"
PADDING = -1
DATA_VARIABLE = "SSMTOOL_DATA"
GRAIN = 64  # batches of tokens are cut after their longest sequence, to multiples of this many steps


@dataclass(frozen=True)
class Task:
    """A task with its options.

    Attributes:
        name: of the file.
        module: that file.
        options: every option it has.
        data: folder with the user's files; None where the task needs none.
    """

    name: str
    module: ModuleType
    options: Mapping[str, int]
    data: Path | None

    @property
    def spec(self) -> str:
        """Name and options that are not at their defaults, as `open_task` reads them."""
        defaults = getattr(self.module, "OPTIONS", {})
        changed = [f"{name}={value}" for name, value in self.options.items() if value != defaults[name]]
        return f"{self.name}:{','.join(changed)}" if changed else self.name

    @property
    def inputs(self) -> int:
        """Numbers per step; of a task of tokens, the size of the vocabulary."""
        count = getattr(self.module, "inputs", None)
        return self.module.INPUTS if count is None else count(self.options)

    @property
    def classes(self) -> int:
        return self.module.CLASSES

    @property
    def recipe(self) -> Mapping[str, Any]:
        """What differs from the defaults of a Recipe."""
        return getattr(self.module, "RECIPE", {})

    def load(self, part: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and labels of "train", "validation" or "test", as the module's own `load` gives them."""
        arguments: dict[str, Any] = {}
        if hasattr(self.module, "OPTIONS"):
            arguments["options"] = self.options
        if hasattr(self.module, "FILES"):
            arguments["data"] = self.data
        return self.module.load(part, **arguments)

    def augment(self, inputs: torch.Tensor, generator: torch.Generator, strength: float) -> torch.Tensor:
        """The task's augmentation; nothing where it has none."""
        change = getattr(self.module, "augment", None)
        return inputs if change is None else change(inputs, generator, strength)

    def encode(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What a model takes: (n, L, INPUTS) float32, and (n,) lengths of sequences of tokens.

        A token becomes a one-hot vector, so that the model's dense encoder is its embedding.
        """
        if inputs.is_floating_point():
            return inputs, None
        lengths = (inputs != PADDING).sum(dim=-1)
        longest = -(-int(lengths.max()) // GRAIN) * GRAIN
        tokens = inputs[:, :longest].long()
        # Padding gets a class of its own, which is then cut off: nothing is put in at those steps.
        hot = F.one_hot(torch.where(tokens == PADDING, self.inputs, tokens), self.inputs + 1)
        return hot[..., :-1].float(), lengths


def open_task(spec: str, data: str | Path | None = None) -> Task:
    """The task `spec` names.

    Args:
        spec: ``digits``, ``listops:max_length=128,train=20000``.
        data: folder with the user's files; default: $SSMTOOL_DATA.

    Raises:
        UsageError: no such task or option, a value that is no number, or files that are needed and not said where.
        DataError: the folder does not exist.
    """
    name, _, text = spec.partition(":")
    known = plugins.names(PACKAGE)
    if name not in known:
        raise UsageError(f"no task {name!r}", remedy=f"Known tasks: {', '.join(known)}")
    module = plugins.load(PACKAGE, name)
    options = dict(getattr(module, "OPTIONS", {}))
    for item in filter(None, text.split(",")):
        option, _, value = item.partition("=")
        if option not in options:
            choice = f"It has {', '.join(options)}" if options else "It has none"
            raise UsageError(f"task {name} has no option {option!r}", remedy=choice)
        try:
            options[option] = int(value)
        except ValueError:
            raise UsageError(f"option {option} of task {name} is {value!r}, not a whole number") from None
    if check := getattr(module, "check", None):
        check(options)
    return Task(name, module, options, _folder(name, module, data))


def _folder(name: str, module: ModuleType, data: str | Path | None) -> Path | None:
    files = getattr(module, "FILES", None)
    if files is None:
        return None
    chosen = data or os.environ.get(DATA_VARIABLE)
    if not chosen:
        raise UsageError(
            f"task {name} reads files that you have, and no folder is given",
            remedy=f"Give --data DIR or set {DATA_VARIABLE}; expected there: {files}",
        )
    if not Path(chosen).is_dir():
        raise DataError("is not a folder", where=str(chosen), remedy=f"Task {name} expects there: {files}")
    return Path(chosen)
