"""Drafts made in memory, and the one that decodes fastest: several sizes of one realisation, and fewer blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ssmtool.errors import UsageError
from ssmtool.pipeline.calibrate import calibrate
from ssmtool.pipeline.drop_blocks import ROWS, choose_drops, without
from ssmtool.pipeline.model import Model
from ssmtool.pipeline.selective_hsv import on_runner
from ssmtool.pipeline.selective_layers import Parts, shrunk
from ssmtool.pipeline.speculative.decode import Pair, Tally, decode, start
from ssmtool.pipeline.speculative.economics import facts
from ssmtool.pipeline.speculative.plan import Plan
from ssmtool.pipeline.speculative.results import Trial
from ssmtool.pipeline.speculative.speculate import WARM, clock, paired
from ssmtool.pipeline.steps import Step, no_step
from ssmtool.pipeline.tokens import Tokens, spread_rows
from ssmtool.selective.choices import Export, Select
from ssmtool.selective.language import LanguageModel
from ssmtool.selective.mixers import ScalarMixer
from ssmtool.selective.projection import balanced_projectors
from ssmtool.selective.statistics import Calibration

SHARES = (8, 4, 2)  # of the states: N / 8, N / 4, N / 2
PROMPTS, LENGTH, RUNS = 3, 32, 2  # on which every draft is tried, and how often


@dataclass(frozen=True)
class Candidate:
    """A drafter made in memory; it shares all it can with the verifier."""

    name: str
    model: LanguageModel


def candidates(model: Model, verifier: LanguageModel, tokens: Tokens, step: Step = no_step) -> tuple[Candidate, ...]:
    """Drafts with fewer states, with fewer blocks, and with both.

    Mamba-2 is projected: the balanced directions come in order of importance, so that the first rows of one pair of
    projectors are those of every smaller rank. Mamba-1 keeps a subset of its states, read anew, without a refit. Blocks
    are dropped by the loss, one after the other.

    Args:
        model: the verifier's checkpoint.
        verifier: the same, opened.
        tokens: calibration.
        step: progress.

    Raises:
        CalibrationError: tokens that do not determine the Gramians.
        UsageError: nothing can be made smaller.
    """
    smaller = _fewer_states(model, verifier, tokens, step)
    blocks = len(verifier.names)
    counts = sorted({max(1, blocks // 4), max(1, blocks // 2)}) if blocks > 1 else []
    order: list[str] = []
    if counts:
        _, drops = choose_drops(verifier, spread_rows(tokens.array, ROWS), counts[-1], step)
        order = [drop.name for drop in drops]
    found = [Candidate(f"{rank} states", model) for rank, model in smaller.items()]
    middle = sorted(smaller)[len(smaller) // 2] if smaller else 0
    for count in counts:
        name = f"{blocks - count} of {blocks} blocks"
        found.append(Candidate(name, without(verifier, order[:count])))
        if smaller:
            found.append(Candidate(f"{name}, {middle} states", without(smaller[middle], order[:count])))
    if not found:
        raise UsageError("this model has one block and one state: there is no smaller draft of it")
    return tuple(found)


@torch.no_grad()
def best_draft(
    verifier: LanguageModel,
    drafts: Sequence[Candidate],
    plan: Plan,
    prompts: Sequence[Tensor],
    *,
    sync: str = "auto",
    step: Step = no_step,
) -> tuple[Pair, str, tuple[Trial, ...]]:
    """Try every draft on a few prompts and take the one with most tokens per second.

    Args:
        verifier: the model.
        drafts: from `candidates`.
        plan: shape of the trees.
        prompts: each (1, L); the first few are used.
        sync: as `paired`; drafts that cannot be projected replay.
        step: progress.

    Returns:
        the pair, the draft's name, and all trials in the order of `drafts`.
    """
    starts = [start(verifier, prompt.to(verifier.device)) for prompt in prompts[:PROMPTS]]
    pairs = [_paired(verifier, candidate.model, sync) for candidate in drafts]
    seconds = [float("inf")] * len(pairs)
    tallies = [Tally() for _ in pairs]
    for run in range(RUNS):
        for i, pair in enumerate(pairs):
            step("trying drafts", run * len(pairs) + i, RUNS * len(pairs), "runs")
            decode(pair, plan, starts[:1], WARM)
            begin = clock(verifier.embedding.device)
            tallies[i] = Tally()
            for begun in starts:
                tallies[i].add(decode(pair, plan, [begun], LENGTH)[1])
            seconds[i] = min(seconds[i], clock(verifier.embedding.device) - begin)
    trials = tuple(
        Trial(
            draft=facts(verifier, candidate.model, candidate.name),
            tokens_per_second=LENGTH * len(starts) / time,
            tokens_per_round=tally.accepted / max(tally.rounds, 1) + 1,
        )
        for candidate, time, tally in zip(drafts, seconds, tallies, strict=True)
    )
    best = min(range(len(pairs)), key=lambda i: seconds[i])
    return pairs[best], drafts[best].name, trials


def _paired(verifier: LanguageModel, draft: LanguageModel, sync: str) -> Pair:
    return paired(verifier, draft, "auto" if sync == "project" else sync)


def _fewer_states(model: Model, verifier: LanguageModel, tokens: Tokens, step: Step) -> dict[int, LanguageModel]:
    """Drafts by rank; none where the model is projected already or has one state."""
    mixers: Parts = {layer.name: model.mixers(layer) for layer in model.layers}
    parts = [mixer for row in mixers.values() for mixer in row]
    states = min(mixer.scanned for mixer in parts)
    ranks = sorted({states // share for share in SHARES if 0 < states // share < states})
    if not ranks or any(isinstance(mixer, ScalarMixer) and mixer.project_b is not None for mixer in parts):
        return {}
    moments = calibrate(
        verifier,
        on_runner(mixers, verifier),
        tokens.array,
        progress=lambda done, total: step("calibrating", done, total, "sequences"),
    )
    if all(isinstance(mixer, ScalarMixer) for mixer in parts):
        return _nested(verifier, moments, ranks)
    found = {}
    for rank in ranks:
        small, _ = shrunk(mixers, moments, rank, Export.stock, Select.elimination, None, 0)
        found[rank] = replace(verifier, mixers=on_runner(small, verifier))
    return found


def _nested(
    verifier: LanguageModel, moments: dict[str, tuple[Calibration, ...]], ranks: Sequence[int]
) -> dict[int, LanguageModel]:
    """Projected drafts of all ranks from one balanced realisation."""
    like = verifier.embedding
    widest = {
        name: tuple(
            tuple(torch.as_tensor(p).to(like) for p in balanced_projectors(moment, max(ranks))) for moment in row
        )
        for name, row in moments.items()
    }
    found = {}
    for rank in ranks:
        mixers = {
            name: tuple(
                replace(mixer, project_b=b[:, :rank].contiguous(), project_c=c[:, :rank].contiguous())
                for mixer, (b, c) in zip(row, widest[name], strict=True)
            )
            for name, row in verifier.mixers.items()
        }
        found[rank] = replace(verifier, mixers=mixers)
    return found
