"""A checkpoint as something that runs on tokens and lets a visitor look at, and replace, what its mixers do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ssmtool.errors import FamilyError, UsageError
from ssmtool.families._contract import Layer, Stack
from ssmtool.lti.factors import resolve_device
from ssmtool.pipeline.model import Model, family_of
from ssmtool.selective.language import LanguageModel, Runner, Visit, replacing
from ssmtool.selective.mixers import Mixer, to_torch


def open_runner(model: Model, device: str = "auto", dtype: torch.dtype = torch.float32) -> Runner:
    """Run a selective checkpoint: a model of mixers alone on the project's own code, every other one on transformers.

    Args:
        model: from `ssmtool.load`.
        device: "auto", "cpu" or "cuda".
        dtype: of weights and activations.

    Returns:
        a runner whose names are those of the model's selective layers, in order of application.

    Raises:
        UsageError: no such device; transformers is needed and is not installed.
        FamilyError: no selective layer, or layers that cannot be run on tokens.
        CheckpointError: tensors that cannot be read.
    """
    place = resolve_device(device)
    stack = stack_of(model)
    if stack is not None:
        return _language_model(model, stack, place, dtype)
    from ssmtool.pipeline.hooked import HookedModel

    return HookedModel(model, place, dtype)


def selective(model: Model) -> tuple[Layer, ...]:
    """The input-dependent layers. Raises FamilyError if there are none."""
    found = tuple(layer for layer in model.layers if not layer.lti)
    if not found:
        raise FamilyError(
            "none of its layers is input-dependent: it is no language model of selective layers",
            where=str(model.checkpoint.path),
        )
    return found


def stack_of(model: Model) -> Stack | None:
    """What surrounds the mixers, where the whole model is a stack of mixers; None where other blocks take part.

    Raises:
        FamilyError: no selective layer.
    """
    layers = selective(model)
    if len({layer.family for layer in model.layers}) > 1:
        return None
    return family_of(layers[0]).stack(model.checkpoint.tensors, model.checkpoint.config, model.layers)


def with_mixers(runner: Runner, mixers: Mapping[str, tuple[Mixer, ...]]) -> Runner:
    """The same model with other mixers in some layers.

    Args:
        runner: from `open_runner`; it stays as it is.
        mixers: layer name -> mixers of torch tensors (`to_torch`) in the runner's dtype.

    Raises:
        UsageError: a layer the runner does not have.
    """
    for name in mixers:
        if name not in runner.names:
            raise UsageError(f"no layer {name!r}", remedy=f"Layers: {', '.join(runner.names)}")
    return Replaced(runner, dict(mixers))


@dataclass(frozen=True)
class Replaced:
    """A runner some of whose layers run other mixers; a visitor sees them and may replace them once more."""

    runner: Runner
    mixers: Mapping[str, tuple[Mixer, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        return self.runner.names

    @property
    def vocabulary(self) -> int:
        return self.runner.vocabulary

    @property
    def device(self) -> str:
        return getattr(self.runner, "device", "cpu")

    def logits(self, tokens: Tensor, visit: Visit | None = None) -> Tensor:
        """As `LanguageModel.logits`."""
        replace = replacing(self.mixers)

        def both(name: str, x: Tensor, residual: Tensor) -> Tensor | None:
            added = None if visit is None else visit(name, x, residual)
            return replace(name, x, residual) if added is None else added

        return self.runner.logits(tokens, both)


def _language_model(model: Model, stack: Stack, place: torch.device, dtype: torch.dtype) -> LanguageModel:
    layers = {layer.name: layer for layer in model.layers}
    if set(layers) != set(stack.norms):
        raise FamilyError(
            f"{len(layers)} layers, but the model's blocks are {', '.join(stack.norms)}",
            where=str(model.checkpoint.path),
        )

    def read(name: str) -> Tensor:
        return torch.as_tensor(model.checkpoint.read(name)).to(place, dtype)

    embedding = read(stack.embedding)
    return LanguageModel(
        embedding=embedding,
        head=embedding if stack.head == stack.embedding else read(stack.head),
        norms={name: read(norm) for name, norm in stack.norms.items()},
        mixers={
            name: tuple(to_torch(mixer, dtype, str(place)) for mixer in model.mixers(layers[name]))
            for name in stack.norms
        },
        final_norm=read(stack.final_norm),
        eps=stack.eps,
    )
