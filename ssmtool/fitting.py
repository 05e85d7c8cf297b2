"""A short fit of some tensors: Adam with a cosine, seeded, judged on a held-out part, never worse than at the start.

What is fitted, and to what, is the caller's: it hands over leaves, a loss of a few sequences, and a judgement.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ssmtool.errors import DataError

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    Attributes:
        steps: of Adam, 0 for none; the rate falls as a cosine to zero.
        batch: sequences per step.
        rate: peak learning rate.
        betas: of Adam.
        looks: how often the held-out part is looked at, at least once, at the end.
        patience: looks without a new best after which the fit stops; None never stops.
        seed: of the order of sequences.
    """

    steps: int
    batch: int
    rate: float
    betas: tuple[float, float] = (0.9, 0.98)
    looks: int = 1
    patience: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Fit:
    """The judgement (smaller is better) before and after, and the steps that were made."""

    before: float
    after: float
    steps: int = 0


class Memory(Protocol):
    """Where a fit leaves what it needs to go on after it was interrupted.

    Attributes:
        where: the file, for messages.
    """

    @property
    def where(self) -> str: ...

    def load(self) -> dict[str, Any] | None:
        """What was saved last, or None."""

    def save(self, state: dict[str, Any]) -> None:
        """Replace what was saved before, at once or not at all."""


def held_out(count: int, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Indices of the sequences that judge, and of those fitted to; the same ones twice if there is but one."""
    order = torch.randperm(count, generator=generator)
    judging = max(1, round(share * count)) if count > 1 else 0
    return (order[:judging], order[judging:]) if judging else (order, order)


def fit(
    leaves: Sequence[tuple[Tensor, float]],
    loss: Callable[[Tensor], Tensor],
    judge: Callable[[], float],
    used: Tensor,
    schedule: Schedule,
    *,
    generator: torch.Generator | None = None,
    mend: Callable[[], None] = lambda: None,
    progress: Progress = lambda done, total: None,
    memory: Memory | None = None,
) -> Fit:
    """Fit `leaves` in place; they end as the best that was judged, which may be what they were.

    Args:
        leaves: tensors that require a gradient, each with a factor on the learning rate.
        loss: (indices) -> scalar, of the sequences at `indices`.
        judge: error of the leaves as they are on held-out sequences; not finite counts as worse than anything.
        used: indices to draw from.
        schedule: how.
        generator: source of the order; made from the schedule's seed if None.
        mend: called after every step, to bring leaves back to where they are allowed.
        progress: called with (steps done, steps).
        memory: where to go on from, and where to leave what that needs, at every look.

    Raises:
        DataError: what the memory holds is not the state of this fit.
    """
    generator = generator or torch.Generator().manual_seed(schedule.seed)
    tensors = [leaf for leaf, _ in leaves]
    optimiser, cosine = adam(leaves, schedule)
    steps, every = schedule.steps, max(1, math.ceil(schedule.steps / max(schedule.looks, 1)))
    saved = memory.load() if memory else None

    def judged() -> float:
        error = judge()
        return error if math.isfinite(error) else math.inf

    if saved is None:
        before = best = judged()
        kept = [leaf.detach().clone() for leaf in tensors]
        done = missed = 0
    else:
        where = "" if memory is None else memory.where
        before, best, done, missed, kept = _restored(saved, tensors, optimiser, cosine, generator, steps, where)
    while done < steps and (schedule.patience is None or missed < schedule.patience):
        chosen = used[torch.randint(len(used), (min(schedule.batch, len(used)),), generator=generator)]
        with torch.enable_grad():
            value = loss(chosen)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        cosine.step()
        mend()
        done += 1
        progress(done, steps)
        if done % every == 0 or done == steps:
            now = judged()
            missed += 1
            if now < best:
                best, missed, kept = now, 0, [leaf.detach().clone() for leaf in tensors]
            if memory:
                facts = {"before": before, "best": best, "done": done, "missed": missed, "kept": kept}
                moments = copy.deepcopy(optimiser.state_dict()["state"])
                leaves_now = [leaf.detach().clone() for leaf in tensors]
                memory.save({**facts, "moments": moments, "leaves": leaves_now, "generator": generator.get_state()})
    with torch.no_grad():
        for leaf, value in zip(tensors, kept, strict=True):
            leaf.copy_(value)
    if done < steps:
        progress(steps, steps)
    return Fit(before, best, done)


def _restored(
    saved: dict[str, Any],
    tensors: list[Tensor],
    optimiser: torch.optim.Adam,
    cosine: torch.optim.lr_scheduler.LambdaLR,
    generator: torch.Generator,
    steps: int,
    where: str,
) -> tuple[float, float, int, int, list[Tensor]]:
    """Put a fit where it was interrupted; rates and other settings are this fit's own.

    Returns:
        before, best, done, missed, kept.

    Raises:
        DataError: the state is not of this fit.
    """
    try:
        before, best, done, missed = float(saved["before"]), float(saved["best"]), saved["done"], saved["missed"]
        if type(done) is not int or type(missed) is not int or not 0 <= done <= steps or missed < 0:
            raise ValueError(f"{done} of {steps} steps")
        kept, now = (
            [_like(value, leaf) for value, leaf in zip(saved[key], tensors, strict=True)] for key in ("kept", "leaves")
        )
        moments = {number: _moments(saved["moments"], number, leaf, done) for number, leaf in enumerate(tensors)}
        generator.set_state(saved["generator"])
    except (AttributeError, KeyError, IndexError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        raise DataError(
            f"what an interrupted fit left is not of this one ({type(error).__name__})",
            where=where,
            remedy="Delete the file to start afresh",
        ) from error
    with torch.no_grad():
        for leaf, value in zip(tensors, now, strict=True):
            leaf.copy_(value)
    state = {number: found for number, found in moments.items() if found}
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
    cosine.last_epoch = done
    for group, base, factor in zip(optimiser.param_groups, cosine.base_lrs, cosine.lr_lambdas, strict=True):
        group["lr"] = base * factor(done)
    return before, best, done, missed, kept


def _moments(saved: Any, number: int, leaf: Tensor, done: int) -> dict[str, Tensor]:
    """Adam's state of one leaf; empty for a leaf that had no gradient."""
    found = saved.get(number)
    if found is None:
        return {}
    step = found["step"].reshape(())
    if not 0 <= step.item() <= done:
        raise ValueError(f"step {step.item()} of {done}")
    return {"step": step, **{name: _like(found[name], leaf) for name in ("exp_avg", "exp_avg_sq")}}


def _like(value: Any, leaf: Tensor) -> Tensor:
    if value.shape != leaf.shape or value.dtype != leaf.dtype:
        raise ValueError(f"{value.dtype} {tuple(value.shape)}")
    return value


def adam(
    leaves: Sequence[tuple[Tensor, float]], schedule: Schedule
) -> tuple[torch.optim.Adam, torch.optim.lr_scheduler.LambdaLR]:
    """Adam with a factor on the rate of every leaf, and its cosine to zero."""
    groups = [{"params": [leaf], "lr": schedule.rate * factor} for leaf, factor in leaves]
    optimiser = torch.optim.Adam(groups, betas=schedule.betas)
    cosine = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: 0.5 * (1 + math.cos(math.pi * step / max(schedule.steps, 1)))
    )
    return optimiser, cosine
