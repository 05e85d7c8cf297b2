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
from ssmtool.pipeline.stages import NOWHERE, Arrays, Stages
from ssmtool.pipeline.steps import Step
from ssmtool.selective.language import Runner, sum_of
from ssmtool.selective.mixers import DiagonalMixer, Mixer

BATCH = 4

Shapes = Mapping[str, list[tuple[int, int]]]
Totals = dict[str, list[Tensor]]


def taylor_scores(
    runner: Runner,
    mixers: Mapping[str, tuple[Mixer, ...]],
    tokens: np.ndarray,
    step: Step,
    stages: Stages = NOWHERE,
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
    stage = stages.stage("taylor", list(mixers))
    begin, totals = stage.recall_sums(len(tokens), partial(_restored, shapes)) or (0, _begun(shapes))
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
        stage.keep_sums(done, len(tokens), partial(_sums, totals))
        step("Taylor scores", done, len(tokens), "sequences")
    return {name: tuple(total.numpy() for total in parts) for name, parts in totals.items()}


def _begun(shapes: Shapes) -> Totals:
    """No sums yet."""
    return {name: [torch.zeros(shape, dtype=torch.float64) for shape in parts] for name, parts in shapes.items()}


def _sums(totals: Totals) -> Arrays:
    """All sums so far."""
    return {f"{name} {k}": total.numpy() for name, parts in totals.items() for k, total in enumerate(parts)}


def _restored(shapes: Shapes, sums: Arrays) -> Totals:
    """The sums that were kept. Raises KeyError, ValueError: they are not of these layers."""
    return {
        name: [torch.as_tensor(sums[f"{name} {k}"]).reshape(shape).double() for k, shape in enumerate(parts)]
        for name, parts in shapes.items()
    }


def _masked(mixer: Mixer, mask: Tensor) -> Mixer:
    """The mixer with every state's output multiplied by its entry of `mask` (G, N)."""
    if isinstance(mixer, DiagonalMixer):
        if mixer.c_norm is not None:
            return replace(mixer, c_norm=mixer.c_norm * mask[0])
        return replace(mixer, x_c=mixer.x_c * mask[..., None])
    eye = torch.eye(mixer.states).to(mask).expand(mixer.groups, -1, -1)
    return replace(mixer, project_b=eye, project_c=eye * mask[:, :, None])
