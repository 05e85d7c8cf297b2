"""First-order importance of every state of every selective layer for the model's own loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssmtool.pipeline.calibrate import as_tokens
from ssmtool.pipeline.selective_hsv import Step
from ssmtool.pipeline.stages import Arrays, Stage, Stages
from ssmtool.selective.language import Runner, sum_of
from ssmtool.selective.mixers import DiagonalMixer, Mixer

BATCH = 4

Totals = dict[str, list[Tensor]]


def taylor_scores(
    runner: Runner,
    mixers: Mapping[str, tuple[Mixer, ...]],
    tokens: np.ndarray,
    step: Step,
    stages: Stages | None = None,
) -> dict[str, tuple[np.ndarray, ...]]:
    """|dL / dm| of a factor m = 1 on every state's C, mean over batches: what removing the state would change.

    L is the cross-entropy of the next token. This is the criterion of Molchanov et al. (2017, section 2.2), which
    SSM-Pruner applies to state-space models.

    Args:
        runner: the whole model.
        mixers: tensor fields, by layer name.
        tokens: (S, L) integers.
        step: progress.
        stages: of the same runner and tokens: where sums are kept, and found again.

    Returns:
        (G, N) scores per mixer, by layer name.
    """
    shapes = {name: [(m.groups, m.states) for m in parts] for name, parts in mixers.items()}
    stage = Stage(None, "") if stages is None else stages.stage("taylor", list(mixers))
    begin, totals = _restored(shapes, stage.find(), len(tokens))
    for start in range(begin, len(tokens), BATCH):
        batch = as_tokens(tokens[start : start + BATCH], mixers)
        masks: dict[str, list[Tensor]] = {}

        def visit(name: str, x: Tensor, residual: Tensor, masks: dict[str, list[Tensor]] = masks) -> Tensor | None:
            if name not in mixers:
                return None
            first = mixers[name][0].out
            masks[name] = [torch.ones(m.groups, m.states).to(first).requires_grad_() for m in mixers[name]]
            return sum_of(tuple(map(_masked, mixers[name], masks[name])), x.to(first)).to(x)

        with torch.enable_grad():
            logits = runner.logits(batch, visit)
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())
        leaves = [mask for parts in masks.values() for mask in parts]
        gradients = iter(torch.autograd.grad(loss, leaves))
        for name, parts in masks.items():
            for k in range(len(parts)):
                totals[name][k] += next(gradients).abs().cpu().double()
        done = min(start + BATCH, len(tokens))
        (stage.keep if done == len(tokens) else stage.keep_sometimes)(partial(_sums, totals, done))
        step("Taylor scores", done, len(tokens), "sequences")
    return {name: tuple(total.numpy() for total in parts) for name, parts in totals.items()}


def _sums(totals: Totals, done: int) -> Arrays:
    """All sums after `done` sequences."""
    found = {f"{name} {k}": total.numpy() for name, parts in totals.items() for k, total in enumerate(parts)}
    return {**found, "done": np.array(done)}


def _restored(shapes: Mapping[str, list[tuple[int, int]]], kept: Arrays | None, sequences: int) -> tuple[int, Totals]:
    """Sequences that were summed before, and their sums; 0 for an entry that is not of these layers and tokens."""
    if kept is not None:
        names = {f"{name} {k}": shape for name, parts in shapes.items() for k, shape in enumerate(parts)}
        sound = all(key in kept and kept[key].shape == shape for key, shape in names.items())
        done = int(kept["done"].item()) if sound and "done" in kept and kept["done"].size == 1 else 0
        if 0 < done <= sequences:
            return done, {
                name: [torch.as_tensor(kept[f"{name} {k}"], dtype=torch.float64) for k in range(len(parts))]
                for name, parts in shapes.items()
            }
    return 0, {name: [torch.zeros(shape, dtype=torch.float64) for shape in parts] for name, parts in shapes.items()}


def _masked(mixer: Mixer, mask: Tensor) -> Mixer:
    """The mixer with every state's output multiplied by its entry of `mask` (G, N)."""
    if isinstance(mixer, DiagonalMixer):
        if mixer.c_norm is not None:
            return replace(mixer, c_norm=mixer.c_norm * mask[0])
        return replace(mixer, x_c=mixer.x_c * mask[..., None])
    eye = torch.eye(mixer.states).to(mask).expand(mixer.groups, -1, -1)
    return replace(mixer, project_b=eye, project_c=eye * mask[:, :, None])
