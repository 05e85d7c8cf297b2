"""Relevance: which input tokens a prediction rests on, by layer-wise relevance propagation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssmtool.analyses._contract import NEEDS_TOKENS, Observer, Panel, Section, Table, Verdict
from ssmtool.analyses._layerwise import logits, with_live_biases
from ssmtool.analyses._numbers import curve, floats
from ssmtool.selective.language import LanguageModel, Runner
from ssmtool.selective.mixers import Mixer, to_torch

SUMMARY = "Relevance: which tokens predictions rest on (MambaLRP), with its conservation check"
REFERENCE = "Jafari et al., NeurIPS 2024 (MambaLRP)"

SEQUENCES, LENGTH, BATCH = 16, 128, 4
_CONSERVED = 1e-4
_BYTES = 256


@dataclass(frozen=True)
class Explained:
    """One prediction.

    Attributes:
        logit: of the most likely next token after the sequence, which is explained.
        prediction: that token.
        tokens: the last tokens read, oldest first.
        relevance: of each of them, as a share of the sum of |R| over the whole sequence; negative ones speak against.
    """

    logit: float
    prediction: int
    tokens: tuple[int, ...]
    relevance: tuple[float, ...]


@dataclass(frozen=True)
class Relevance(Section):
    """Relevance of tokens for the next one.

    Attributes:
        sequences, length: how many predictions were explained, after how many tokens each.
        conservation: largest |sum_t R_t + what biases absorb - logit| / max(1, |logit|): 0 but for rounding.
        absorbed: mean share |biases' relevance| / (|biases' relevance| + |tokens' relevance|).
        reach: tokens back within which 90 % of sum |R_t| lies, on average over predictions.
        mean_distance: of tokens, weighted with |R_t|.
        profile: mean share of sum |R_t| by distance; 0 is the last token read.
        examples: a few predictions.
    """

    sequences: int
    length: int
    conservation: float | None
    absorbed: float | None
    reach: float | None
    mean_distance: float | None
    profile: tuple[float, ...]
    examples: tuple[Explained, ...]

    def tables(self) -> tuple[Table, ...]:
        if not self.sequences:
            return ()
        columns = ("predictions", "tokens", "90 % within", "mean distance", "absorbed by biases", "conservation")
        row = (
            self.sequences,
            self.length,
            self.reach,
            self.mean_distance,
            f"{100 * (self.absorbed or 0):.0f} %",
            self.conservation,
        )
        note = (
            "Distances in tokens before the prediction, weighted with |relevance|. Conservation: largest difference "
            "between the logit and the relevance of tokens and biases together, relative."
        )
        return (Table(columns, (row,), note), *((_examples(self.examples),) if self.examples else ()))

    def panels(self) -> tuple[Panel, ...]:
        if not self.sequences:
            return ()
        distance = np.arange(len(self.profile))
        panels = [
            Panel(
                "Share of |relevance| by distance",
                "tokens before the prediction (0: the last one read, shown at 1/2)",
                "mean share",
                (curve(np.maximum(distance, 0.5), self.profile),),
                x_log=True,
                y_log=True,
            )
        ]
        if self.examples:
            first = self.examples[0]
            panels.append(
                Panel(
                    f"One prediction: {_word(first.prediction)}",
                    "last tokens read",
                    "share of relevance",
                    (curve(range(1 - len(first.relevance), 1), first.relevance),),
                    "bar",
                    level=(0.0, ""),
                )
            )
        return tuple(panels)


class Propagation(Observer):
    """Explains predictions once all batches are through."""

    def __init__(self) -> None:
        super().__init__()
        self._selective = self._ran = False
        self._found: Relevance | None = None

    def selective(self, name: str, mixer: Mixer) -> None:
        """As `Observer.selective`."""
        self._selective = True

    def run(self, runner: Runner, tokens: Tensor) -> None:
        """As `Observer.run`."""
        self._ran = True
        if isinstance(runner, LanguageModel):
            self._found = explain(runner, tokens[:SEQUENCES, :LENGTH])

    def result(self) -> Relevance:
        """As `Observer.result`."""
        if self._found is not None:
            return self._found
        reason = "not available: the model has no selective layer"
        if self._ran:
            reason = (
                "not available: the model has other blocks than mixers, which have no propagation rules here; only "
                "pure mixer models have"
            )
        elif self._selective:
            reason = f"relevance of tokens: {NEEDS_TOKENS}"
        return Relevance((), (reason,), 0, 0, None, None, None, None, (), ())


def start() -> Propagation:
    """An observer for one model."""
    return Propagation()


def explain(model: LanguageModel, tokens: Tensor) -> Relevance:
    """Relevance of every token for the most likely next token after each sequence, in float64.

    Args:
        tokens: (b, L).
    """
    model, biases = with_live_biases(_double(model))
    shares, examples, gaps, absorbed = [], [], [], []
    for part in tokens.split(BATCH):
        for row in part.split(1):  # biases collect per call: one sequence each
            embedded = F.embedding(row, model.embedding).detach().requires_grad_(True)
            last = logits(model, embedded)[0, -1]
            best = int(last.argmax())
            gradients = torch.autograd.grad(last[best], [embedded, *biases], allow_unused=True)
            assert gradients[0] is not None
            relevance = (embedded * gradients[0]).sum(-1)[0].detach().cpu().numpy()
            bias = sum(
                float((b * g).detach().sum()) for b, g in zip(biases, gradients[1:], strict=True) if g is not None
            )
            logit = float(last[best].detach())
            size = float(np.abs(relevance).sum())
            gaps.append(abs(float(relevance.sum()) + bias - logit) / max(1.0, abs(logit)))
            absorbed.append(abs(bias) / max(abs(bias) + abs(float(relevance.sum())), 1e-300))
            share = relevance / max(size, 1e-300)
            shares.append(np.abs(share)[::-1])
            if len(examples) < 3:
                shown = slice(-32, None)
                examples.append(
                    Explained(logit, best, tuple(int(t) for t in row[0, shown].tolist()), floats(share[shown]))
                )
    profile = np.mean(shares, axis=0)
    reach = float(np.mean([np.searchsorted(np.cumsum(share), 0.9 * share.sum()) + 1 for share in shares]))
    distance = float(profile @ np.arange(len(profile)) / max(profile.sum(), 1e-300))
    conservation = max(gaps)
    verdicts = [
        Verdict("", f"90 % of the relevance for the next token lies within {reach:.0f} of {tokens.shape[1]} tokens")
    ]
    if conservation > _CONSERVED:
        verdicts.append(Verdict("", f"relevance is not conserved (gap {conservation:.1e}): do not rely on it"))
    return Relevance(
        tuple(verdicts),
        (),
        len(shares),
        tokens.shape[1],
        conservation,
        float(np.mean(absorbed)),
        reach,
        distance,
        floats(profile),
        tuple(examples),
    )


def _double(model: LanguageModel) -> LanguageModel:
    place = str(model.embedding.device)
    return LanguageModel(
        model.embedding.double(),
        model.head.double(),
        {name: weight.double() for name, weight in model.norms.items()},
        {name: tuple(to_torch(m, torch.float64, place) for m in parts) for name, parts in model.mixers.items()},
        model.final_norm.double(),
        model.eps,
    )


def _examples(examples: tuple[Explained, ...]) -> Table:
    rows = []
    for example in examples:
        strongest = sorted(range(len(example.tokens)), key=lambda i: -abs(example.relevance[i]))[:5]
        listed = "  ".join(
            f"{_word(example.tokens[i])}@{i - len(example.tokens) + 1} {100 * example.relevance[i]:+.0f} %"
            for i in sorted(strongest)
        )
        rows.append((_word(example.prediction), example.logit, listed))
    note = "Strongest: token@distance and its share of the sum of |relevance|."
    return Table(("prediction", "logit", "strongest of the last 32 tokens"), tuple(rows), note)


def _word(token: int) -> str:
    """A token below 256 as the byte it may be, any other as its number."""
    if 33 <= token < 127:
        return chr(token)
    return {10: "\\n", 32: "␣", 9: "\\t"}.get(token, f"#{token}")
