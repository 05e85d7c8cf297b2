"""Refit of a reduced mixer on unlabelled tokens.

The block's output on the reduced model's own stream is brought back to what the original block left in its residual
stream. Only what makes B and C, and for Mamba-1 A and D, moves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ssmtool.fitting import Fit, Schedule, fit, held_out
from ssmtool.selective.language import sum_of
from ssmtool.selective.mixers import DiagonalMixer, Mixer, ScalarMixer


@dataclass(frozen=True)
class RefitOptions:
    """How a layer is refitted.

    Attributes:
        steps: of Adam per layer, 0 for none; cosine from `rate` to zero.
        last: steps for all layers together on the whole model's KL divergence, see distil.py; None is half of `steps`.
        last_rate: peak learning rate of these.
        batch: sequences per step.
        rate: peak learning rate; filters of the convolution learn three times as fast.
        held_out: share of the sequences that decides, and is not trained on.
        seed: of the order of sequences.
    """

    steps: int = 300
    last: int | None = None
    last_rate: float = 3e-4
    batch: int = 4
    rate: float = 3e-3
    held_out: float = 0.1
    seed: int = 0

    def schedule(self) -> Schedule:
        """Of the fit of one layer."""
        return Schedule(self.steps, self.batch, self.rate, seed=self.seed)


def refit(
    mixers: tuple[Mixer, ...],
    x: Tensor,
    target: Tensor,
    options: RefitOptions,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[tuple[Mixer, ...], Fit]:
    """Fit the mixers of one layer; never returns something worse on the held-out sequences than it was given.

    Args:
        mixers: tensor fields of x's dtype.
        x: (S, L, d) inputs of the layer in the reduced model.
        target: (S, L, d) what the layer should add there.
        options: how.
        progress: called with (steps done, steps).

    Returns:
        The mixers, detached, and |o - t|^2 / |t|^2 on the held-out sequences.
    """
    generator = torch.Generator().manual_seed(options.seed)
    judging, used = held_out(len(x), options.held_out, generator)
    fitted, leaves = trainable(mixers)

    def loss(chosen: Tensor) -> Tensor:
        wanted = target[chosen]
        return (sum_of(assembled(fitted), x[chosen]) - wanted).square().sum() / wanted.square().sum()

    def judge() -> float:
        return _error(assembled(fitted), x[judging], target[judging], options.batch)

    found = fit(leaves, loss, judge, used, options.schedule(), generator=generator, progress=progress)
    return (detached(fitted) if found.after < found.before else mixers), found


@dataclass(frozen=True)
class Parts:
    """A mixer and those of its tensors that are trained, by field; "conv" and "conv_bias" hold rows of B and C only."""

    mixer: Mixer
    tensors: dict[str, Tensor]


def trainable(mixers: tuple[Mixer, ...]) -> tuple[list[Parts], list[tuple[Tensor, float]]]:
    """Leaves to train, with the factor on their learning rate."""
    parts, parameters = [], []
    for mixer in mixers:
        if isinstance(mixer, DiagonalMixer):
            fields = {name: getattr(mixer, name) for name in ("x_b", "x_c", "a_log", "d_skip")}
        else:
            inner = mixer.channels
            fields = {"in_b": mixer.in_b, "in_c": mixer.in_c}
            if mixer.conv is not None:
                fields["conv"] = mixer.conv[inner:]
            if mixer.conv_bias is not None:
                fields["conv_bias"] = mixer.conv_bias[inner:]
        leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in fields.items()}
        parts.append(Parts(mixer, leaves))
        parameters += [(leaf, 3.0 if name.startswith("conv") else 1.0) for name, leaf in leaves.items()]
    return parts, parameters


def assembled(parts: list[Parts]) -> tuple[Mixer, ...]:
    """The mixers with the trained tensors in place."""
    found: list[Mixer] = []
    for part in parts:
        fields = dict(part.tensors)
        if isinstance(part.mixer, ScalarMixer):
            for name in ("conv", "conv_bias"):
                if name in fields:
                    fields[name] = torch.cat([getattr(part.mixer, name)[: part.mixer.channels], fields[name]])
        found.append(replace(part.mixer, **fields))
    return tuple(found)


def detached(parts: list[Parts]) -> tuple[Mixer, ...]:
    """The mixers as they are now, without a graph."""
    return tuple(
        replace(mixer, **{k: v.detach().clone() for k, v in vars(mixer).items() if isinstance(v, Tensor)})
        for mixer in assembled(parts)
    )


@torch.no_grad()
def _error(mixers: tuple[Mixer, ...], x: Tensor, target: Tensor, batch: int) -> float:
    """|o - t|^2 / |t|^2 over all sequences."""
    lost = total = 0.0
    for part, wanted in zip(x.split(batch), target.split(batch), strict=True):
        lost += (sum_of(mixers, part) - wanted).double().square().sum().item()
        total += wanted.double().square().sum().item()
    return lost / max(total, 1e-300)
