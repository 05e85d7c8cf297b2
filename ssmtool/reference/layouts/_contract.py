"""What a layout file provides, and what its state-space layers have in common.

A layout module defines
    SUMMARY: str                                    one line
    matches(names) -> bool                          whether a set of tensor names is of this layout
    sizes(shapes) -> Sizes                          read from shapes alone; KeyError names a tensor that is missing
    create(sizes, dropout) -> ReferenceModel        a freshly initialised model, from torch's global generator
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Sizes:
    """Everything that decides the shapes of a reference model.

    Attributes:
        inputs: numbers per time step.
        width: H, channels between the layers.
        classes: outputs.
        slots: stored state slots of each layer; layers may differ, as they do after a reduction.
    """

    inputs: int
    width: int
    classes: int
    slots: tuple[int, ...]


class StateSpace(nn.Module, ABC):
    """A linear time-invariant state-space layer with diagonal dynamics.

    Attributes:
        systems: independent systems in the layer (S4D: one per channel; S5 and LRU: one).
        slots: stored complex state slots of each.
    """

    systems: int
    slots: int

    @abstractmethod
    def mix(self, u: torch.Tensor) -> torch.Tensor:
        """The linear map alone, D included, no nonlinearity: (batch, L, H) -> (batch, L, H)."""

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        """The linear map, where a layout's layer has nothing else inside."""
        return self.mix(u)

    @abstractmethod
    def state_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that define the linear map: trained with their own rate."""

    @abstractmethod
    def residue_parameters(self) -> Iterator[nn.Parameter]:
        """Those among them that the map is linear in (input and output weights of the modes): may be decayed."""

    def constrain(self) -> None:
        """Called after every training step: moves poles that left the stable region back into it."""


class ReferenceModel(nn.Module):
    """(batch, L, inputs) -> (batch, classes): encoder, pre-normed residual blocks, mean over time, decoder.

    ``forward(u, lengths=None)``: with `lengths` (batch,) the mean is over each sequence's own steps. The blocks are
    causal, so whatever stands behind a sequence's end changes nothing.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes

    def state_spaces(self) -> list[StateSpace]:
        """The state-space layers in order of application."""
        return [module for module in self.modules() if isinstance(module, StateSpace)]

    def state_slots(self) -> int:
        """Stored complex state slots in all: what the model carries from one time step to the next."""
        return sum(layer.systems * layer.slots for layer in self.state_spaces())


def time_mean(x: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    """Mean over the first `lengths` steps, or all of them: (batch, L, H), (batch,) integers >= 1 -> (batch, H)."""
    if lengths is None:
        return x.mean(dim=-2)
    inside = torch.arange(x.shape[-2], device=x.device) < lengths.unsqueeze(-1)
    return torch.where(inside.unsqueeze(-1), x, 0).sum(dim=-2) / lengths.unsqueeze(-1).to(x.dtype)


class TiedDropout(nn.Module):
    """Dropout that removes whole channels for the length of a sequence, as S4 and S5 do: (batch, L, H) -> same.

    Noise that changes at every step would be averaged away by the layer's own memory.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.probability == 0:
            return x
        keep = 1 - self.probability
        return x * (torch.rand(x.shape[0], 1, x.shape[2], device=x.device) < keep).to(x.dtype).div(keep)


def log_uniform(low: float, high: float, shape: tuple[int, ...]) -> torch.Tensor:
    """Logarithms of step sizes spread log-uniformly over [low, high]: `shape`, default dtype."""
    start, stop = torch.tensor([low, high]).log()
    return start + (stop - start) * torch.rand(shape)


def layer_indices(names: list[str], pattern: str) -> list[str]:
    """Names `pattern.format(i)` for i = 0, 1, ... as long as `names` holds them."""
    held, found = set(names), []
    while (name := pattern.format(len(found))) in held:
        found.append(name)
    return found
