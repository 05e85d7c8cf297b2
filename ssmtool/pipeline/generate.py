"""Cached decoding: a model's own continuation, one token at a time with a constant state."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmtool.errors import FamilyError
from ssmtool.selective.forward import Memory, forward
from ssmtool.selective.language import LanguageModel, rms_norm

Memories = dict[str, tuple[Memory, ...]]

BATCH = 64  # sequences sampled at a time


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
    x = F.embedding(tokens, model.embedding)
    after: Memories = {}
    for name, weight in model.norms.items():
        normed = rms_norm(x, weight, model.eps)
        kept = []
        for i, mixer in enumerate(model.mixers[name]):
            if mixer.reverse:
                raise FamilyError("a mixer that reads backwards cannot generate", where=name)
            added, memory, _ = forward(mixer, normed, None if memories is None else memories[name][i])
            x = x + added
            kept.append(memory)
        after[name] = tuple(kept)
    return F.linear(rms_norm(x[:, -1], model.final_norm, model.eps), model.head), after


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
