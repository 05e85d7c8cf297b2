"""Run a model on calibration tokens and measure every selective layer in one pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ssmtool.pipeline.packing import prefixed, without_prefix
from ssmtool.pipeline.stages import NOWHERE, Arrays, Stages
from ssmtool.selective.forward import forward
from ssmtool.selective.language import LanguageModel, Runner, replacing
from ssmtool.selective.mixers import Mixer
from ssmtool.selective.statistics import Calibration, Statistics

Mixers = Mapping[str, tuple[Mixer, ...]]
Gathered = Mapping[str, list[Statistics]]
BATCH = 8
STRIDE = 16  # neighbouring states differ little
ENOUGH = 64  # samples per state, below which every state is measured


@torch.no_grad()
def calibrate(
    runner: Runner,
    mixers: Mixers,
    tokens: np.ndarray,
    *,
    batch: int = BATCH,
    stages: Stages = NOWHERE,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, tuple[Calibration, ...]]:
    """Moments of every mixer of `mixers` on `tokens`; memory does not grow with their number.

    Args:
        runner: the whole model.
        mixers: by layer name, tensor fields.
        tokens: (S, L) integers.
        batch: sequences at a time.
        stages: of the same runner and tokens: where sums are kept, and found again.
        progress: called with (sequences done, sequences).

    Raises:
        CalibrationError: states or outputs that are not finite.
    """
    stage = stages.stage("calibration", list(mixers), batch)
    begin, gathered = stage.recall_sums(len(tokens), partial(_restored, mixers, tokens)) or (0, _begun(mixers, tokens))
    # A model run by other code must stay as it is; our own need not compute the same thing twice.
    own = isinstance(runner, LanguageModel)

    def visit(name: str, x: Tensor, residual: Tensor) -> Tensor | None:
        if name not in gathered:
            return None
        total = None
        for mixer, statistics in zip(mixers[name], gathered[name], strict=True):
            out, _, trace = forward(mixer, x.to(mixer.out))
            statistics.update(trace, out)
            total = out if total is None else total + out
        return total if own else None

    if begin:
        progress(begin, len(tokens))
    for start in range(begin, len(tokens), batch):
        runner.logits(as_tokens(tokens[start : start + batch], mixers), visit)
        done = min(start + batch, len(tokens))
        stage.keep_sums(done, len(tokens), partial(_sums, gathered))
        progress(done, len(tokens))
    return {name: tuple(s.result() for s in parts) for name, parts in gathered.items()}


def _begun(mixers: Mixers, tokens: np.ndarray) -> Gathered:
    """No sums yet."""
    return {name: [Statistics(m, stride=_stride(m, tokens)) for m in parts] for name, parts in mixers.items()}


def _sums(gathered: Gathered) -> Arrays:
    """All sums so far, as `_restored` takes them."""
    found: Arrays = {}
    for name, parts in gathered.items():
        for k, statistics in enumerate(parts):
            found |= prefixed(f"{name} {k}", statistics.sums())
    return found


def _restored(mixers: Mixers, tokens: np.ndarray, sums: Arrays) -> Gathered:
    """Statistics that go on from `sums`. Raises KeyError, ValueError: they are not of these layers."""
    gathered = _begun(mixers, tokens)
    for name, parts in gathered.items():
        for k, statistics in enumerate(parts):
            statistics.restore(without_prefix(f"{name} {k}", sums))
    return gathered


def _stride(mixer: Mixer, tokens: np.ndarray) -> int:
    """Every how many steps a state is measured: as rarely as the number of tokens allows, at most STRIDE."""
    return max(1, min(STRIDE, tokens.size // (ENOUGH * mixer.scanned), tokens.shape[1]))


class _Reached(Exception):
    """The layer that was asked for has been visited; the rest of the model need not run."""


@torch.no_grad()
def streams(
    runner: Runner, mixers: Mixers, name: str, tokens: np.ndarray, *, replaced: Mixers, batch: int = BATCH
) -> tuple[Tensor, Tensor]:
    """What reaches one layer when others are replaced: its normalised input and the residual stream, both (S, L, d).

    Args:
        runner: the whole model.
        mixers: of the original layers; they fix dtype and device.
        name: the layer.
        tokens: (S, L) integers.
        replaced: mixers to run in place of the model's own, by layer name.
        batch: sequences at a time.
    """
    inputs, residuals = [], []

    others = replacing(replaced)

    def visit(visited: str, x: Tensor, residual: Tensor) -> Tensor | None:
        if visited == name:
            inputs.append(x.to(mixers[name][0].out))
            residuals.append(residual.to(mixers[name][0].out))
            raise _Reached
        return others(visited, x, residual)

    for start in range(0, len(tokens), batch):
        try:
            runner.logits(as_tokens(tokens[start : start + batch], mixers), visit)
        except _Reached:
            continue
    return torch.cat(inputs), torch.cat(residuals)


def as_tokens(tokens: np.ndarray, mixers: Mixers) -> Tensor:
    """int64 tensor on the device of the mixers."""
    return torch.as_tensor(tokens.astype(np.int64), device=next(iter(mixers.values()))[0].out.device)
