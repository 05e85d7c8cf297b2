"""A checkpoint that runs: the original as a module, reduced versions of it, and what every layer meets on inputs."""

from __future__ import annotations

import hashlib
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from ssmtool.checkpoint import round_to
from ssmtool.errors import FamilyError
from ssmtool.families._contract import Layer
from ssmtool.pipeline.inputs import checked
from ssmtool.pipeline.live import Build, Place, assemble, live_layers, places
from ssmtool.pipeline.methods import BEST, REDUCTIONS, How
from ssmtool.pipeline.model import Model
from ssmtool.pipeline.seen import seen_by
from ssmtool.pipeline.storage import Tensors
from ssmtool.plugins import load as load_plugin
from ssmtool.reductions._contract import Seen


class Workbench:
    """A checkpoint and inputs to run it on.

    Args:
        model: the checkpoint.
        build: makes a module of a state_dict; None for reference models.
        inputs: (K, L, ...) float or (K, L) integer; `digest` is their hash.

    Raises:
        CalibrationError: inputs that determine nothing.
        FamilyError, UsageError: the module cannot be made or run.
    """

    def __init__(self, model: Model, build: Build | None, inputs: np.ndarray) -> None:
        checked(inputs)
        self.model, self.build = model, build
        data = torch.as_tensor(np.ascontiguousarray(inputs))
        self.data: Tensor = data.float() if data.is_floating_point() else data.long()
        self.digest = hashlib.sha256(f"{data.shape} {data.dtype} ".encode() + data.numpy().tobytes()).hexdigest()
        self.original = self.module({})

    def module(self, changed: dict[str, Tensors]) -> nn.Module:
        """The checkpoint with some tensors changed, as they will be stored, in evaluation mode."""
        checkpoint = self.model.checkpoint
        tensors = {name: checkpoint.read(name) for name in checkpoint.tensors}
        for layer in changed.values():
            for name, (array, dtype) in layer.items():
                if array is None:
                    tensors.pop(name, None)
                else:
                    tensors[name] = round_to(array, dtype)
        return assemble(tensors, self.build, str(checkpoint.path))

    @cached_property
    def places(self) -> dict[str, Place]:
        """Where the original's layers sit, by name."""
        found = live_layers(self.original, self.model.checkpoint.config)
        return {place.layer.name: place for place in places(self.original, found, self.data[:2])}

    def seen(self, layer: Layer, how: How) -> Seen | None:
        """What a layer meets, if the method can use it."""
        if how.method != BEST and "seen" not in load_plugin(REDUCTIONS, how.method).OPTIONS:
            return None
        if layer.name not in self.places:
            raise FamilyError(
                "the running model has no layer of this name",
                where=layer.name,
                remedy="The model's code has to keep the checkpoint's tensor names",
            )
        return seen_by(self.original, self.places[layer.name], self.data)
