"""First-order importance of every state of every selective layer for the model's own loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssmtool.pipeline.calibrate import as_tokens
from ssmtool.pipeline.selective_hsv import Step
from ssmtool.selective.language import Runner, sum_of
from ssmtool.selective.mixers import DiagonalMixer, Mixer

BATCH = 4


def taylor_scores(
    runner: Runner, mixers: Mapping[str, tuple[Mixer, ...]], tokens: np.ndarray, step: Step
) -> dict[str, tuple[np.ndarray, ...]]:
    """|dL / dm| of a factor m = 1 on every state's C, mean over batches: what removing the state would change.

    L is the cross-entropy of the next token. This is the criterion of Molchanov et al. (2017, section 2.2), which
    SSM-Pruner applies to state-space models.

    Args:
        runner: the whole model.
        mixers: tensor fields, by layer name.
        tokens: (S, L) integers.
        step: progress.

    Returns:
        (G, N) scores per mixer, by layer name.
    """
    totals = {
        name: [torch.zeros(m.groups, m.states, dtype=torch.float64) for m in parts] for name, parts in mixers.items()
    }
    for start in range(0, len(tokens), BATCH):
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
        step("Taylor scores", min(start + BATCH, len(tokens)), len(tokens), "sequences")
    return {name: tuple(total.numpy() for total in parts) for name, parts in totals.items()}


def _masked(mixer: Mixer, mask: Tensor) -> Mixer:
    """The mixer with every state's output multiplied by its entry of `mask` (G, N)."""
    if isinstance(mixer, DiagonalMixer):
        if mixer.c_norm is not None:
            return replace(mixer, c_norm=mixer.c_norm * mask[0])
        return replace(mixer, x_c=mixer.x_c * mask[..., None])
    eye = torch.eye(mixer.states).to(mask).expand(mixer.groups, -1, -1)
    return replace(mixer, project_b=eye, project_c=eye * mask[:, :, None])
