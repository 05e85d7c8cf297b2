"""The size of the state beyond the length of the sequences given: does it settle, or grow until the model fails?

Source: Chen et al., "Stuffed Mamba: state collapse and state capacity of RNN-based long-context modeling", 2024,
section 4.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ssmtool.analyses._projected import as_read
from ssmtool.selective.forward import forward
from ssmtool.selective.language import LanguageModel, Runner
from ssmtool.selective.mixers import Mixer
from ssmtool.selective.statistics import states

FACTOR, LONGEST, SEQUENCES = 4, 4096, 8
POINTS, PER_POINT = 4, 4  # points per length given; states averaged per point

BATCH = 2

Growth = tuple[tuple[int, ...], tuple[float, ...]]


@torch.no_grad()
def state_growth(runner: Runner, mixers: Mapping[str, Mapping[str, Mixer]], tokens: Tensor) -> dict[str, Growth]:
    """By row name: tokens read, and root mean square of the states up to there, over its value at L tokens.

    Args:
        runner: the whole model.
        mixers: layer name -> row name -> mixer with tensor fields.
        tokens: (sequences, L); sequences are joined end to end to make FACTOR times as long ones, so that there are
            joints every L tokens; fewer sequences than that give shorter ones.
    """
    count, length = tokens.shape
    factor = max(1, min(FACTOR, count, LONGEST // length))
    rows = max(1, min(SEQUENCES, count // factor))
    stride = max(1, length // (POINTS * PER_POINT))
    squares: dict[str, dict[int, float]] = {}
    own = isinstance(runner, LanguageModel)

    def visit(layer: str, x: Tensor, _: Tensor) -> Tensor | None:
        total = None
        for name, mixer in mixers.get(layer, {}).items():
            out, _memory, trace = forward(mixer, x.to(mixer.out))
            for t, h in states(*as_read(mixer, trace), stride):
                squares.setdefault(name, {}).setdefault(t + 1, 0.0)
                squares[name][t + 1] += h.double().square().mean().item()
            total = out if total is None else total + out
        return total.to(x) if own and total is not None else None

    joined = tokens[: rows * factor].reshape(rows, -1)
    for batch in joined.split(BATCH):
        runner.logits(batch, visit)
    return {name: _relative(by_place, length) for name, by_place in squares.items()}


def _relative(squares: Mapping[int, float], length: int) -> Growth:
    """Points that average PER_POINT neighbouring states, relative to the last one within `length` tokens."""
    places = sorted(squares)
    ends = places[PER_POINT - 1 :: PER_POINT]
    sums = [sum(squares[t] for t in places[i : i + PER_POINT]) for i in range(0, len(ends) * PER_POINT, PER_POINT)]
    inside = [value for t, value in zip(ends, sums, strict=True) if t <= length]
    if not inside or inside[-1] <= 0:
        return (), ()
    return tuple(ends), tuple((value / inside[-1]) ** 0.5 for value in sums)
