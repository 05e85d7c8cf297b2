"""The recipe that made the language models in fixtures/."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ssmtool.training.language.corpus import Corpus, spread
from ssmtool.training.language.model import VOCABULARY, ByteModel, Sizes


@dataclass(frozen=True)
class LanguageRecipe:
    """Everything that decides a training run but the seed.

    Attributes:
        sizes: of the model.
        steps: of the optimiser.
        batch, length: sequences per step, bytes per sequence.
        rate: peak learning rate (AdamW, one step in twenty of warm-up, cosine to zero).
        decay: weight decay of matrices, but not of A_log.
        averaging: decay per step of the running average of the weights, which is what is returned.
    """

    sizes: Sizes
    steps: int
    batch: int = 16
    length: int = 256
    rate: float = 4e-3
    decay: float = 0.05
    averaging: float = 0.99


LANGUAGE_RECIPES = {
    "mamba": LanguageRecipe(Sizes("mamba", width=128, depth=4, states=16), steps=1800),
    "mamba2": LanguageRecipe(Sizes("mamba2", width=128, depth=4, states=64), steps=2200),
}


def train_language(
    recipe: LanguageRecipe, corpus: Corpus, seed: int, report: Callable[[int, float], None]
) -> ByteModel:
    """Train from scratch on the CPU on windows at random places of the corpus's training part.

    Args:
        recipe: what to do.
        corpus: bytes; the held-out part is never looked at.
        seed: of initialisation and order.
        report: called every hundred steps with (step, mean loss since the last call in nats per byte).
    """
    text = torch.from_numpy(corpus.train.copy())
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ByteModel(recipe.sizes)
    average = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    matrices = [p for n, p in model.named_parameters() if p.ndim > 1 and not n.endswith("A_log")]
    rest = [p for n, p in model.named_parameters() if p.ndim < 2 or n.endswith("A_log")]
    groups = [{"params": matrices, "weight_decay": recipe.decay}, {"params": rest, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _warm_cosine(step, recipe.steps))
    window, total = torch.arange(recipe.length + 1), 0.0
    for step in range(1, recipe.steps + 1):
        starts = torch.randint(len(text) - recipe.length - 1, (recipe.batch, 1), generator=generator)
        chosen = text[starts + window].long()
        loss = F.cross_entropy(model(chosen[:, :-1]).reshape(-1, VOCABULARY), chosen[:, 1:].reshape(-1))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        total += loss.item()
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                average[name].lerp_(tensor, 1 - recipe.averaging)
        if step % 100 == 0:
            report(step, total / 100)
            total = 0.0
    model.load_state_dict(average)
    return model.eval()


@torch.no_grad()
def perplexity(model: ByteModel, corpus: Corpus, sequences: int = 128, length: int = 512) -> float:
    """exp of the mean cross-entropy per byte over windows spread over the corpus's held-out part."""
    tokens = torch.from_numpy(spread(corpus.held_out, sequences, length + 1)).long()
    losses = [
        F.cross_entropy(model(part[:, :-1]).reshape(-1, VOCABULARY), part[:, 1:].reshape(-1), reduction="sum").item()
        for part in tokens.split(16)
    ]
    return math.exp(sum(losses) / (sequences * length))


def _warm_cosine(step: int, steps: int) -> float:
    warm = max(steps // 20, 1)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1)))
