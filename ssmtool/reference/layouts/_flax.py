"""The parts of a classifier around the state-space layers under flax's names, as the JAX code bases store them.

S5 (lindermanlab/S5) and LRU (minimal-LRU) share the frame ``encoder.encoder``, ``encoder.layers_{i}``, ``decoder`` and
differ in the layer ``seq``, the norm's name and the gate; HankelReg has a frame of its own (hankelreg.py) and the same
block. Paths are joined with "." instead of "/".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import nn

from ssmtool.reference.layouts._contract import (
    ReferenceModel,
    Sizes,
    StateSpace,
    TiedDropout,
    layer_indices,
    time_mean,
)


class Dense(nn.Module):
    """x @ kernel + bias, kernel (inputs, outputs): the transpose of torch's Linear."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(inputs, outputs) / math.sqrt(inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.kernel + self.bias


class LayerNorm(nn.Module):
    """Normalisation over channels with flax's names ``scale`` and ``bias``, and flax's epsilon."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], self.scale, self.bias, eps=1e-6)


class Block(nn.Module):
    """x + gate(GELU(seq(norm(x)))), on (batch, L, H).

    Args:
        norm, name: what the norm and the state-space layer are stored under.
        full: True for the gate out1(y) * sigmoid(out2(y)), False for y * sigmoid(out2(y)), which stores no out1.
    """

    def __init__(
        self, seq: StateSpace, width: int, dropout: float, *, norm: str, full: bool, name: str = "seq"
    ) -> None:
        super().__init__()
        self.norm_name, self.name = norm, name
        self.add_module(norm, LayerNorm(width))
        self.add_module(name, seq)
        self.out1 = Dense(width, width) if full else None
        self.out2 = Dense(width, width)
        self.dropout = TiedDropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seq, norm = self.get_submodule(self.name), self.get_submodule(self.norm_name)
        y = self.dropout(F.gelu(seq(norm(x))))
        y = (y if self.out1 is None else self.out1(y)) * torch.sigmoid(self.out2(y))
        return x + self.dropout(y)


class Encoder(nn.Module):
    """Dense map of the input, then the blocks ``layers_0``, ``layers_1``, ..."""

    def __init__(self, inputs: int, width: int, blocks: list[Block]) -> None:
        super().__init__()
        self.encoder = Dense(inputs, width)
        for index, block in enumerate(blocks):
            self.add_module(f"layers_{index}", block)
        self.depth = len(blocks)

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        x = self.encoder(u)
        for index in range(self.depth):
            x = self.get_submodule(f"layers_{index}")(x)
        return x


class FlaxClassifier(ReferenceModel):
    """Encoder, mean over time, decoder."""

    def __init__(
        self, sizes: Sizes, dropout: float, layer: Callable[[int, int], StateSpace], *, norm: str, full: bool
    ) -> None:
        super().__init__(sizes)
        width = sizes.width
        blocks = [Block(layer(width, slots), width, dropout, norm=norm, full=full) for slots in sizes.slots]
        self.encoder = Encoder(sizes.inputs, width, blocks)
        self.decoder = Dense(width, sizes.classes)

    def forward(self, u: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        return self.decoder(time_mean(self.encoder(u), lengths))


def frame_sizes(shapes: Mapping[str, tuple[int, ...]], poles: str) -> Sizes:
    """Sizes from shapes; `poles` names a tensor of ``seq`` whose first axis is the stored state."""
    inputs, width = shapes["encoder.encoder.kernel"]
    layers = layer_indices(list(shapes), f"encoder.layers_{{}}.seq.{poles}")
    return Sizes(inputs, width, shapes["decoder.kernel"][1], tuple(shapes[name][0] for name in layers))
