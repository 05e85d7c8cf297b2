"""A language model of mixers alone with whole blocks left out: those without which it predicts least worse."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ssmtool.checkpoint import Rewrite
from ssmtool.checkpoint.dtypes import BITS
from ssmtool.errors import FamilyError, UsageError
from ssmtool.families._contract import Stack
from ssmtool.families._pure_stack import with_blocks
from ssmtool.pipeline.compress import default_output
from ssmtool.pipeline.model import Model
from ssmtool.pipeline.projected import STATES
from ssmtool.pipeline.runner import stack_of
from ssmtool.pipeline.steps import Step, no_step
from ssmtool.pipeline.tokens import Tokens, spread_rows
from ssmtool.selective.language import LanguageModel, Runner
from ssmtool.shown import markdown
from ssmtool.version import __version__

ROWS = 64  # sequences on which the loss is measured, at most
BATCH = 8
RECORD = "ssmtool_blocks"  # metadata key that stays when the result is compressed once more


@dataclass(frozen=True)
class Drop:
    """One block that was left out, in the order of the choice.

    Attributes:
        name: the layer's name in the original.
        loss: cross-entropy in nats per token without it and all that were dropped before.
        losses: what every candidate would have led to, by name.
    """

    name: str
    loss: float
    losses: Mapping[str, float]


@dataclass(frozen=True)
class BlockDropping:
    """Result of `drop_blocks`.

    Attributes:
        source: the input.  output: the new checkpoint; None for a dry run.
        tokens: measured on.  sequences: of them.
        loss: cross-entropy of the original in nats per token.
        drops: what was dropped, in that order.
        blocks: names of all blocks of the original, in order.
        bytes_before, bytes_after: of all tensors.
        source_sha256: hash of the input.
        skipped: files of the input that did not go along.
    """

    source: Path
    output: Path | None
    tokens: Tokens
    sequences: int
    loss: float
    drops: tuple[Drop, ...]
    blocks: tuple[str, ...]
    bytes_before: int
    bytes_after: int
    source_sha256: str
    skipped: tuple[str, ...] = ()

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of the blocks that stay, in order."""
        gone = {drop.name for drop in self.drops}
        return tuple(name for name in self.blocks if name not in gone)


def without(model: LanguageModel, dropped: Collection[str]) -> LanguageModel:
    """The model with some blocks left out; the others are shared with it."""
    return replace(
        model,
        norms={name: weight for name, weight in model.norms.items() if name not in dropped},
        mixers={name: parts for name, parts in model.mixers.items() if name not in dropped},
    )


@torch.no_grad()
def mean_loss(model: Runner, tokens: np.ndarray, device: str = "cpu") -> float:
    """Cross-entropy in nats per token of sequences (S, L), L > 1; the first token of each is not predicted."""
    total = 0.0
    for start in range(0, len(tokens), BATCH):
        part = torch.from_numpy(tokens[start : start + BATCH].astype(np.int64)).to(device)
        logits = model.logits(part)[:, :-1]
        total += float(F.cross_entropy(logits.flatten(0, 1).double(), part[:, 1:].flatten(), reduction="sum"))
    return total / (len(tokens) * (tokens.shape[1] - 1))


def choose_drops(
    model: LanguageModel, tokens: np.ndarray, count: int, step: Step = no_step
) -> tuple[float, tuple[Drop, ...]]:
    """Drop blocks one at a time, each time the one whose absence costs least after those before it.

    Args:
        model: of at least count + 1 blocks.
        tokens: (S, L) to measure the loss on.
        count: blocks to drop.
        step: progress.

    Returns:
        the loss of the whole model, and the drops.
    """
    whole = mean_loss(model, tokens, model.device)
    drops: list[Drop] = []
    total = sum(len(model.names) - k for k in range(count))
    for _ in range(count):
        gone = {drop.name for drop in drops}
        losses = {}
        for name in model.names:
            if name not in gone:
                losses[name] = mean_loss(without(model, {*gone, name}), tokens, model.device)
                step("dropping blocks", sum(len(drop.losses) for drop in drops) + len(losses), total, "models")
        best = min(losses, key=lambda name: losses[name])
        drops.append(Drop(best, losses[best], losses))
    return whole, tuple(drops)


def drop_blocks(
    model: Model,
    runner: Runner,
    tokens: Tokens,
    output: str | Path | None,
    count: int,
    *,
    dry_run: bool = False,
    step: Step = no_step,
) -> BlockDropping:
    """Write a checkpoint of the same family with `count` blocks fewer.

    Kept tensors are copied value by value in their dtypes under the names of the blocks they become.

    Args:
        model: from `ssmtool.load`.
        runner: the same model, from `open_runner`.
        tokens: on which the loss is measured.
        output: destination, which must not exist; None derives "<name>-drop<count>" beside the input.
        count: blocks to drop, at least 1 and fewer than there are.
        dry_run: everything but the writing.
        step: progress.

    Raises:
        FamilyError: other blocks than mixers take part.
        UsageError: count out of range, sequences with nothing to predict.
        CheckpointError, OutputError: reading or writing fails.
    """
    stack = droppable(model, count)
    if not isinstance(runner, LanguageModel):
        raise UsageError("blocks are dropped from a model that open_runner has opened")
    if tokens.array.shape[1] < 2:
        raise UsageError("sequences of one token have nothing to predict", remedy="Give longer sequences")
    config = with_blocks(model.checkpoint.config, len(stack.norms) - count)
    with ExitStack() as opened:
        rewrite = None
        if not dry_run:
            rewrite = opened.enter_context(Rewrite(model.checkpoint, output or default_output(model, f"drop{count}")))
        rows = spread_rows(tokens.array, ROWS)
        whole, drops = choose_drops(runner, rows, count, step)
        moved = _moved(model, stack, {drop.name for drop in drops})
        infos = model.checkpoint.tensors
        after = sum(infos[old].size * BITS[infos[old].dtype] // 8 for old in moved.values())
        done = BlockDropping(
            source=model.checkpoint.path,
            output=None,
            tokens=tokens,
            sequences=len(rows),
            loss=whole,
            drops=drops,
            blocks=tuple(stack.norms),
            bytes_before=model.checkpoint.data_bytes,
            bytes_after=after,
            source_sha256=model.checkpoint.sha256(),
        )
        if rewrite is None:
            return done
        for name in infos:
            if name not in moved:
                rewrite.drop(name)
        for new, old in moved.items():
            if new != old:
                rewrite.put(new, model.checkpoint.read(old), infos[old].dtype)
        rewrite.config = _with_places(config, moved)
        record = provenance(done)
        rewrite.metadata = {"ssmtool": json.dumps(record), RECORD: json.dumps(record)}
        rewrite.card = _card(done)
        path = rewrite.commit()
        return replace(done, output=Path(path), skipped=tuple(rewrite.skipped))


def droppable(model: Model, count: int) -> Stack:
    """What surrounds the blocks. Raises FamilyError, UsageError: blocks cannot be dropped, or not so many."""
    stack = stack_of(model)
    if stack is None:
        raise FamilyError(
            "blocks other than mixers take part, which cannot be dropped here",
            where=str(model.checkpoint.path),
            remedy="--drop-blocks is for models of Mamba blocks alone",
        )
    if not 1 <= count < len(stack.norms):
        raise UsageError(f"--drop-blocks {count} of {len(stack.norms)} blocks: give 1 to {len(stack.norms) - 1}")
    return stack


def provenance(done: BlockDropping) -> dict[str, Any]:
    """What is written into the new checkpoint's metadata."""
    return {
        "version": __version__,
        "target": f"drop-blocks {len(done.drops)}",
        "calibration": {"tokens": done.tokens.description, "sha256": done.tokens.sha256},
        "source_sha256": done.source_sha256,
        "loss": float(f"{done.loss:.6g}"),
        "dropped": [{"name": drop.name, "loss": float(f"{drop.loss:.6g}")} for drop in done.drops],
        "kept": list(done.kept),
    }


def _moved(model: Model, stack: Stack, dropped: Collection[str]) -> dict[str, str]:
    """New tensor name -> old one, for every tensor that stays; blocks move up to close the gaps."""
    starts = {name: norm.removesuffix("norm.weight") for name, norm in stack.norms.items()}
    kept = [start for name, start in starts.items() if name not in dropped]
    place = dict(zip(kept, starts.values(), strict=False))
    found: dict[str, str] = {}
    for name in model.checkpoint.tensors:
        start = next((start for start in starts.values() if name.startswith(start)), None)
        if start is None:
            found[name] = name
        elif start in place:
            found[place[start] + name.removeprefix(start)] = name
    return found


def _with_places(config: dict[str, Any] | None, moved: Mapping[str, str]) -> dict[str, Any] | None:
    """config.json with the states of projected mixers under the places they moved to."""
    states = None if config is None else config.get(STATES)
    if config is None or not isinstance(states, Mapping):
        return config
    from ssmtool.runtime.modeling_projected import place

    paths = {new.rpartition(".")[0]: old.rpartition(".")[0] for new, old in moved.items() if new.endswith("A_log")}
    return {**config, STATES: {place(new): states[place(old)] for new, old in paths.items() if place(old) in states}}


def _card(done: BlockDropping) -> str:
    """Markdown section for a README.md."""
    lines = [
        "## Dropped blocks",
        "",
        f"{len(done.drops)} of {len(done.blocks)} blocks left out with ssmtool {__version__} (loss measured on "
        f"{done.sequences} sequences of {markdown(done.tokens.description)}); source sha256 `{done.source_sha256}`.",
        "",
        "| without | loss, nats per token |",
        "|---|---|",
        f"| nothing | {done.loss:.4f} |",
    ]
    lines += [f"| {'also ' if i else ''}{markdown(drop.name)} | {drop.loss:.4f} |" for i, drop in enumerate(done.drops)]
    return "\n".join(lines) + "\n"
