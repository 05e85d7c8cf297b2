"""Cached decoding: a model's own continuation, one token at a time with a constant state."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmtool.errors import FamilyError
from ssmtool.selective.forward import Memory, Order, forward
from ssmtool.selective.language import LanguageModel, rms_norm

Memories = dict[str, tuple[Memory, ...]]

BATCH = 64  # sequences sampled at a time


def stream(
    model: LanguageModel, tokens: Tensor, memories: Memories | None, orders: Mapping[str, tuple[Order, ...]] | None
) -> tuple[Tensor, Memories]:
    """The residual stream after all blocks.

    Args:
        model: mixers that read forwards.
        tokens: (b, L), L >= 1.
        memories: what the last call returned; None at the start.
        orders: of the steps, for every mixer; None for one after the other.

    Returns:
        (b, L, d) before the final norm, and the memories after the last step.

    Raises:
        FamilyError: a mixer that reads backwards.
    """
    x = F.embedding(tokens, model.embedding)
    after: Memories = {}
    for name, weight in model.norms.items():
        normed = rms_norm(x, weight, model.eps)
        kept = []
        for i, mixer in enumerate(model.mixers[name]):
            if mixer.reverse:
                raise FamilyError("a mixer that reads backwards cannot generate", where=name)
            before = None if memories is None else memories[name][i]
            added, memory, _ = forward(mixer, normed, before, None if orders is None else orders[name][i])
            x = x + added
            kept.append(memory)
        after[name] = tuple(kept)
    return x, after


def to_logits(model: LanguageModel, x: Tensor) -> Tensor:
    """Next-token logits (..., V) of the residual stream (..., d) after all blocks."""
    return F.linear(rms_norm(x, model.final_norm, model.eps), model.head)


def advance(model: LanguageModel, tokens: Tensor, memories: Memories | None = None) -> tuple[Tensor, Memories]:
    """Read further tokens.

    Args:
        model: mixers that read forwards.
        tokens: (b, L), L >= 1.
        memories: what the last call returned; None at the start.

    Returns:
        logits (b, V) after the last token, and what the next call needs.

    Raises:
        FamilyError: a mixer that reads backwards.
    """
    x, after = stream(model, tokens, memories, None)
    return to_logits(model, x[:, -1]), after


@torch.no_grad()
def greedy(model: LanguageModel, logits: Tensor, memories: Memories, length: int) -> Tensor:
    """The likeliest continuation, one token at a time: (b, length) int64.

    Args:
        model: mixers that read forwards.
        logits, memories: what `advance` returned for the prompts.
        length: tokens, at least 1.
    """
    found = [logits.argmax(-1, keepdim=True)]
    for _ in range(length - 1):
        logits, memories = advance(model, found[-1], memories)
        found.append(logits.argmax(-1, keepdim=True))
    return torch.cat(found, dim=1)


@torch.no_grad()
def sample(model: LanguageModel, count: int, length: int, seed: int, start: int | None) -> Tensor:
    """Sequences drawn from the model's own distribution, at temperature 1 and from the whole vocabulary.

    Args:
        model: mixers that read forwards.
        count, length: sequences, and tokens of each, the first included.
        seed: of the draws; they are made on the CPU, in float64, whatever device the model is on.
        start: first token of every sequence; drawn uniformly for None.

    Returns:
        (count, length) int64 on the CPU.
    """
    generator = torch.Generator().manual_seed(seed)
    device = model.embedding.device
    parts = []
    for first in range(0, count, BATCH):
        rows = min(BATCH, count - first)
        token = _first(rows, model.vocabulary, start, generator)
        drawn, memories = [token], None
        for _ in range(length - 1):
            logits, memories = advance(model, token.to(device), memories)
            chances = torch.softmax(logits.double().cpu(), -1)
            token = torch.multinomial(chances, 1, generator=generator)
            drawn.append(token)
        parts.append(torch.cat(drawn, dim=1))
    return torch.cat(parts)


def _first(rows: int, vocabulary: int, start: int | None, generator: torch.Generator) -> Tensor:
    if start is not None:
        return torch.full((rows, 1), start)
    return torch.randint(vocabulary, (rows, 1), generator=generator)
