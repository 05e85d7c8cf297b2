"""The last part of a refit: all reduced layers together, on what the whole model predicts.

Layer-by-layer fits treat every direction of the residual stream alike. A few steps on the KL divergence of the
next-token distributions, with the original as the teacher, spend the same parameters where the predictions feel it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmtool.fitting import Fit, Schedule, fit, held_out
from ssmtool.selective.language import Runner, Visit, replacing
from ssmtool.selective.mixers import Mixer
from ssmtool.selective.refit import Parts, RefitOptions, assembled, detached, trainable


def distil(
    runner: Runner,
    mixers: Mapping[str, tuple[Mixer, ...]],
    tokens: Tensor,
    options: RefitOptions,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[dict[str, tuple[Mixer, ...]], Fit]:
    """Fit reduced mixers to the original's next-token distributions; never returns what is worse on held-out sequences.

    Args:
        runner: the original model.
        mixers: reduced ones by layer name, tensor fields.
        tokens: (S, L) integers on the runner's device.
        options: `last` steps with peak rate `last_rate`.
        progress: called with (steps done, steps).

    Returns:
        The mixers, detached, and the mean KL divergence in nats per token before and after.
    """
    steps = options.steps // 2 if options.last is None else options.last
    generator = torch.Generator().manual_seed(options.seed + 1)
    judging, used = held_out(len(tokens), options.held_out, generator)
    fitted: dict[str, list[Parts]] = {}
    leaves: list[tuple[Tensor, float]] = []
    for name, parts in mixers.items():
        fitted[name], found = trainable(parts)
        leaves += found

    def current() -> Visit:
        return replacing({name: assembled(parts) for name, parts in fitted.items()})

    def loss(chosen: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = F.log_softmax(runner.logits(tokens[chosen]), dim=-1)
        return _divergence(wanted, runner.logits(tokens[chosen], current()))

    def judge() -> float:
        return _kl(runner, current(), tokens[judging], options.batch)

    schedule = Schedule(steps, options.batch, options.last_rate)
    result = fit(leaves, loss, judge, used, schedule, generator=generator, progress=progress)
    better = result.after < result.before
    return ({name: detached(parts) for name, parts in fitted.items()} if better else dict(mixers)), result


def _divergence(wanted: Tensor, logits: Tensor) -> Tensor:
    """Mean over tokens of sum p log(p / q)."""
    found = F.log_softmax(logits, dim=-1)
    return F.kl_div(found, wanted, reduction="none", log_target=True).sum(-1).mean()


@torch.no_grad()
def _kl(runner: Runner, visit: Visit, tokens: Tensor, batch: int) -> float:
    total = 0.0
    for part in tokens.split(batch):
        wanted = F.log_softmax(runner.logits(part), dim=-1)
        total += _divergence(wanted, runner.logits(part, visit)).item() * len(part)
    return total / len(tokens)
