"""Two language models on the same tokens: perplexity, distance of the next-token distributions, speed of decoding."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssmtool.errors import MismatchError, UsageError
from ssmtool.pipeline.generate import Memories, advance
from ssmtool.pipeline.stages import NOWHERE, Arrays, Stages
from ssmtool.selective.language import LanguageModel, Runner

LOGITS = 1 << 27  # numbers of one batch of logits, at most: half a gigabyte in float32
POSITIONS = 1 << 22  # numbers whose logarithms are taken at a time, in float64
BATCH = 16
DECODED, RUNS = 64, 5  # tokens that are timed, and how often


@dataclass(frozen=True)
class LanguageComparison:
    """What two models predict, over all next tokens of the sequences.

    Attributes:
        predictions: next tokens predicted.
        loss_original, loss_reduced: mean cross-entropy in nats per token.
        kl: mean KL divergence of the reduced model's next-token distribution from the original's, in nats:
            sum p log(p / q), p the original's.
        agreement: share of the places where both hold the same token the likeliest.
    """

    predictions: int
    loss_original: float
    loss_reduced: float
    kl: float
    agreement: float

    @property
    def perplexity_original(self) -> float:
        return math.exp(self.loss_original)

    @property
    def perplexity_reduced(self) -> float:
        return math.exp(self.loss_reduced)

    @property
    def increase(self) -> float:
        """Of the perplexity, in percent of the original's."""
        return 100 * math.expm1(self.loss_reduced - self.loss_original)

    @property
    def bits_original(self) -> float:
        """Cross-entropy in bits per token."""
        return self.loss_original / math.log(2)

    @property
    def bits_reduced(self) -> float:
        """Cross-entropy in bits per token."""
        return self.loss_reduced / math.log(2)


@torch.no_grad()
def compare(
    original: Runner,
    reduced: Runner,
    tokens: np.ndarray,
    *,
    batch: int | None = None,
    stages: Stages = NOWHERE,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> LanguageComparison:
    """Run both models on the same sequences.

    Memory holds one batch of logits of each; sums are in float64.

    Args:
        original, reduced: from `open_runner`.
        tokens: (S, L) integers, L > 1; the first token of a sequence is not predicted.
        batch: sequences at a time; by default as many as keep the logits small.
        stages: of these models and tokens: where sums are kept, and found again.
        progress: called with (sequences done, sequences).

    Raises:
        MismatchError: different vocabularies.
        UsageError: sequences with nothing to predict.
    """
    if original.vocabulary != reduced.vocabulary:
        raise MismatchError(f"different vocabularies: {original.vocabulary} tokens and {reduced.vocabulary}")
    count, length = tokens.shape
    if length < 2 or count < 1:
        raise UsageError(f"{count} sequences of {length} tokens have no next token to predict")
    size = batch or max(1, min(BATCH, LOGITS // (length * original.vocabulary)))
    stage = stages.stage("comparison")
    begin, sums = stage.recall_sums(count, _restored) or (0, np.zeros(4))
    for start in range(begin, count, size):
        part = torch.from_numpy(tokens[start : start + size].astype(np.int64))
        first, second = (runner.logits(part.to(device_of(runner)))[:, :-1] for runner in (original, reduced))
        sums += _sums(first.flatten(0, 1), second.flatten(0, 1), part[:, 1:].flatten().to(first.device))
        done = min(start + size, count)
        stage.keep_sums(done, count, lambda sums=sums: {"sums": sums})
        progress(done, count)
    predictions = count * (length - 1)
    loss, other, kl, same = sums / predictions
    return LanguageComparison(predictions, float(loss), float(other), float(kl), float(same))


def _restored(kept: Arrays) -> np.ndarray:
    """The sums of `_sums` that were kept. Raises KeyError, ValueError: they are none."""
    return kept["sums"].reshape(4)


def _sums(first: Tensor, second: Tensor, targets: Tensor) -> np.ndarray:
    """Sums of both losses, the KL divergence and the agreement over the rows of (n, V) logits."""
    rows = max(1, POSITIONS // first.shape[1])
    total = np.zeros(4)
    for a, b, t in zip(first.split(rows), second.split(rows), targets.split(rows), strict=True):
        p, q = (F.log_softmax(x.double(), dim=-1) for x in (a, b.to(a.device)))
        kl = torch.where(p > -torch.inf, p.exp() * (p - q), 0.0).sum()
        same = (a.argmax(-1) == b.to(a.device).argmax(-1)).sum()
        losses = [-x.gather(1, t[:, None]).sum() for x in (p, q)]
        total += np.array([float(x) for x in (*losses, kl, same)])
    return total


def device_of(runner: Runner) -> torch.device:
    """Where a runner takes its tokens."""
    return torch.device(getattr(runner, "device", "cpu"))


@dataclass(frozen=True)
class Decoding:
    """Cached decoding of one sequence, on this machine.

    Attributes:
        tokens_per_second: of greedy decoding, one sequence at a time; the best of several runs.
        tokens: decoded in each run.
    """

    tokens_per_second: float
    tokens: int


@torch.no_grad()
def decoding_speeds(models: Sequence[LanguageModel], prompt: Tensor) -> tuple[Decoding, ...]:
    """Measure greedy decoding after a prompt with a constant state, of several models in turns.

    Args:
        models: mixers that read forwards.
        prompt: (1, L) tokens on the models' device; it is read before the clock starts.
    """
    starts = [advance(model, prompt) for model in models]
    best = [math.inf] * len(models)
    for _ in range(RUNS):  # in turns, so that whatever else the machine does slows all of them down
        for i, (model, (logits, memories)) in enumerate(zip(models, starts, strict=True)):
            best[i] = min(best[i], _seconds(model, logits, memories))
    return tuple(Decoding(DECODED / seconds, DECODED) for seconds in best)


def _seconds(model: LanguageModel, logits: Tensor, memories: Memories) -> float:
    """Wall time of DECODED greedy steps."""
    token = logits.argmax(-1, keepdim=True)
    _wait(token)
    begin = time.perf_counter()
    for _ in range(DECODED):
        logits, memories = advance(model, token, memories)
        token = logits.argmax(-1, keepdim=True)
    _wait(token)
    return time.perf_counter() - begin


def _wait(tensor: Tensor) -> None:
    if tensor.device.type == "cuda":
        torch.cuda.synchronize(tensor.device)
