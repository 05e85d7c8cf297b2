"""A whole language model made of selective mixers alone: embedding, residual blocks, final norm, head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmtool.selective.forward import forward
from ssmtool.selective.mixers import Mixer

Visit = Callable[[str, Tensor, Tensor], "Tensor | None"]


class Runner(Protocol):
    """Anything that runs a whole language model and lets a visitor look at, and replace, what its mixers do.

    Attributes:
        names: the selective layers it visits, in order of application.
        vocabulary: tokens are integers in [0, vocabulary).
    """

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def vocabulary(self) -> int: ...

    def logits(self, tokens: Tensor, visit: Visit | None = None) -> Tensor:
        """As `LanguageModel.logits`."""
        ...


@dataclass(frozen=True)
class LanguageModel:
    """x = x + mixer(norm(x)) for every block, logits = head norm_f(x).

    Attributes:
        embedding: (V, d).  head: (V, d), the embedding itself where the two are tied.
        norms: (d,) RMS norm weight per block, by layer name in order of application.
        mixers: by layer name; several per block are added (bidirectional mixers).
        final_norm: (d,).
        eps: of the norms.
    """

    embedding: Tensor
    head: Tensor
    norms: Mapping[str, Tensor]
    mixers: Mapping[str, tuple[Mixer, ...]]
    final_norm: Tensor
    eps: float

    @property
    def names(self) -> tuple[str, ...]:
        """The layers in order of application."""
        return tuple(self.norms)

    @property
    def vocabulary(self) -> int:
        """V."""
        return self.embedding.shape[0]

    @property
    def device(self) -> str:
        """Where the weights are and tokens have to be."""
        return str(self.embedding.device)

    def logits(self, tokens: Tensor, visit: Visit | None = None) -> Tensor:
        """Next-token logits (b, L, V) of tokens (b, L), integers below V.

        Args:
            tokens: (b, L).
            visit: called for each block in order with (layer name, normalised input of the mixer (b, L, d), residual
                stream before the block (b, L, d)); the tensor it returns replaces what the mixer would add, None leaves
                the mixer alone.
        """
        x = F.embedding(tokens, self.embedding)
        for name, weight in self.norms.items():
            normed = rms_norm(x, weight, self.eps)
            added = None if visit is None else visit(name, normed, x)
            if added is None:
                added = sum_of(self.mixers[name], normed)
            x = x + added
        return F.linear(rms_norm(x, self.final_norm, self.eps), self.head)


def sum_of(mixers: tuple[Mixer, ...], x: Tensor) -> Tensor:
    """What the mixers of one block add together (b, L, d)."""
    out, *_ = forward(mixers[0], x)
    for mixer in mixers[1:]:
        out = out + forward(mixer, x)[0]
    return out


def replacing(mixers: Mapping[str, tuple[Mixer, ...]]) -> Visit:
    """A visitor that runs these mixers (layer name -> tensor fields) in place of the model's own."""

    def visit(name: str, x: Tensor, residual: Tensor) -> Tensor | None:
        return sum_of(mixers[name], x.to(mixers[name][0].out)).to(x) if name in mixers else None

    return visit


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x over its root mean square along the last axis, times `weight`."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight
