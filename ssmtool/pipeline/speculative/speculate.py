"""Decode prompts twice, plainly and with a drafter, and compare tokens, calls and wall time."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from ssmtool.errors import FamilyError, MismatchError, UsageError
from ssmtool.pipeline.generate import advance, greedy
from ssmtool.pipeline.model import Model
from ssmtool.pipeline.runner import open_runner, stack_of
from ssmtool.pipeline.speculative.decode import Pair, Start, Tally, decode, start
from ssmtool.pipeline.speculative.economics import economics, facts, weight_bytes
from ssmtool.pipeline.speculative.memories import joined
from ssmtool.pipeline.speculative.plan import Plan
from ssmtool.pipeline.speculative.results import Economics, Speculation, Trial
from ssmtool.pipeline.speculative.sync import links, projected_memories
from ssmtool.pipeline.steps import Step, no_step
from ssmtool.selective.language import LanguageModel

BATCHES = (1, 32)  # for which the economics are measured
SYNCS = ("auto", "project", "replay")
WARM = 4  # tokens decoded before the clock starts


def open_stack(model: Model, device: str = "auto") -> LanguageModel:
    """A checkpoint as a model that can draft and verify.

    Raises:
        FamilyError: other blocks than mixers take part, a mixer reads backwards, or no layer is selective.
        UsageError, CheckpointError: as `open_runner`.
    """
    where = str(model.checkpoint.path)
    runner = open_runner(model, device) if stack_of(model) is not None else None
    if not isinstance(runner, LanguageModel):
        raise FamilyError(
            "speculative decoding needs a language model of Mamba blocks alone, and other blocks take part here",
            where=where,
        )
    if any(mixer.reverse for parts in runner.mixers.values() for mixer in parts):
        raise FamilyError("a mixer that reads backwards cannot generate", where=where)
    return runner


def paired(verifier: LanguageModel, draft: LanguageModel, sync: str = "auto") -> Pair:
    """A verifier and its drafter.

    Args:
        sync: "project" takes the drafter's state from the verifier's after every round, "replay" lets it read the
            accepted tokens itself; "auto" projects where the draft is made of the verifier's blocks.

    Raises:
        MismatchError: different vocabularies, or nothing to project with.
        UsageError: no such sync.
    """
    if sync not in SYNCS:
        raise UsageError(f"there is no --sync {sync}", remedy=f"Known: {', '.join(SYNCS)}")
    if verifier.vocabulary != draft.vocabulary:
        raise MismatchError(
            f"different vocabularies: the model has {verifier.vocabulary} tokens, its draft {draft.vocabulary}",
            remedy="Give a draft of the same vocabulary",
        )
    linked = None if sync == "replay" else links(verifier, draft)
    if sync == "project" and linked is None:
        raise MismatchError(
            "the draft's state cannot be projected from the model's, as its blocks are not the model's own with or "
            "without projectors",
            remedy="Use --sync replay, or a draft made with --export projected or --drop-blocks",
        )
    return Pair(verifier, draft, linked, weight_bytes(draft) / weight_bytes(verifier))


@torch.no_grad()
def speculate(
    pair: Pair,
    plan: Plan,
    prompts: Sequence[Tensor],
    length: int,
    *,
    name: str = "draft",
    batch: int = 1,
    batches: Sequence[int] = BATCHES,
    trials: tuple[Trial, ...] = (),
    step: Step = no_step,
) -> Speculation:
    """Decode every prompt plainly and speculatively.

    Args:
        pair: from `paired`.
        plan: shape of the drafted trees.
        prompts: each (1, L), L >= 1, integers below the vocabulary.
        length: tokens to decode after each.
        name: of the draft, for the report.
        batch: prompts decoded at a time.
        batches: batch sizes whose economics are measured; none for ().
        trials: what led to this draft.
        step: progress.

    Raises:
        UsageError: no prompt, an empty one, one with unknown tokens, or numbers out of range.
    """
    checked_prompts(prompts, pair.verifier.vocabulary)
    if length < 1 or batch < 1:
        raise UsageError(f"{length} tokens in batches of {batch}: both are at least 1")
    device = pair.verifier.embedding.device
    starts = [start(pair.verifier, prompt.to(device)) for prompt in prompts]
    plain_tokens(pair.verifier, starts[:batch], min(length, WARM))
    decode(pair, plan, starts[:batch], min(length, WARM))
    tally, found, same = Tally(), [], 0
    plain_seconds = seconds = 0.0
    for first in range(0, len(starts), batch):
        group = starts[first : first + batch]
        begin = clock(device)
        expected = plain_tokens(pair.verifier, group, length)
        middle = clock(device)
        got, counted = decode(pair, plan, group, length)
        end = clock(device)
        plain_seconds, seconds = plain_seconds + middle - begin, seconds + end - middle
        tally.add(counted)
        same += sum(_identical(pair.verifier, *row) for row in zip(got, expected, group, strict=True))
        found += got
        step("decoding", len(found), len(starts), "prompts")
    return Speculation(
        draft=facts(pair.verifier, pair.draft, name),
        trials=trials,
        tree=str(plan),
        sync="replay" if pair.links is None else "project",
        length=length,
        batch=batch,
        tokens=tuple(map(tuple, found)),
        identical=same,
        tally=tally,
        seconds_plain=plain_seconds,
        seconds=seconds,
        economics=_economics(pair, starts, tally, batches, step),
        device=str(device),
    )


def plain_tokens(verifier: LanguageModel, starts: Sequence[Start], length: int) -> list[list[int]]:
    """The greedy continuations of a batch of prompts."""
    logits = torch.cat([begun.logits for begun in starts])
    return greedy(verifier, logits, joined([begun.memories for begun in starts]), length).tolist()


def _identical(verifier: LanguageModel, got: list[int], expected: list[int], begun: Start) -> bool:
    """Whether a continuation is that of plain decoding: of the prompt alone, since a batch rounds in its own way."""
    return got == expected or got == plain_tokens(verifier, [begun], len(got))[0]


def _economics(
    pair: Pair, starts: Sequence[Start], tally: Tally, batches: Sequence[int], step: Step
) -> tuple[Economics, ...]:
    if not tally.rounds:
        return ()
    if pair.links is None:
        mine = advance(pair.draft, starts[0].tokens)[1]
    else:
        mine = projected_memories(pair.links, pair.draft, starts[0].memories)
    rows = []
    for i, batch in enumerate(batches):
        step("measuring costs", i, len(batches), "batch sizes")
        rows.append(economics(pair, tally, starts, mine, batch))
    return tuple(rows)


def checked_prompts(prompts: Sequence[Tensor], vocabulary: int) -> None:
    """Raises UsageError for no prompt, an empty one, or one with unknown tokens."""
    if not prompts:
        raise UsageError("no prompt", remedy="Give --prompt TEXT, --prompts FILE or --tokens FILE")
    for i, prompt in enumerate(prompts):
        if prompt.shape[-1] == 0:
            raise UsageError(f"prompt {i + 1} is empty", remedy="Give at least one token")
        if not 0 <= int(prompt.min()) <= int(prompt.max()) < vocabulary:
            raise UsageError(
                f"prompt {i + 1} has token {int(prompt.max())}, which is not below the model's {vocabulary}",
                remedy="Give tokens of this model's vocabulary",
            )


def clock(device: torch.device) -> float:
    """Seconds, when all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
