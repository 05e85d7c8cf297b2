"""Ranks of whole layers by what the model's outputs lose: measured layer by layer, then corrected together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ssmtool.pipeline.spending import between, ranks_to_measure
from ssmtool.pipeline.trials import Trials

Step = Callable[[str, int, int], None]


def layer_curves(trials: Trials, chosen: slice, most: Sequence[int], step: Step) -> list[np.ndarray]:
    """Error of the model's outputs against the rank of one layer, all others whole; per layer (n + 1,) float64.

    Args:
        trials: the model.
        chosen: sequences to measure on.
        most: largest rank of each layer.
        step: progress.
    """
    curves = []
    for number, (layer, n) in enumerate(zip(trials.layers, most, strict=True)):
        grid = ranks_to_measure(n)
        values = [trials.error({layer.name: np.full(layer.systems, r)}, chosen) for r in grid]
        curves.append(between(grid, np.array(values), n))
        step("sensitivity", number + 1, len(trials.layers))
    return curves


def exchanged(
    trials: Trials,
    chosen: slice,
    start: Sequence[np.ndarray],
    floors: Sequence[int],
    most: Sequence[int],
    stride: int,
    step: Step,
) -> list[np.ndarray]:
    """Move ranks from layer to layer while the measured error of the whole model falls.

    What layers lose one at a time does not add up where they lose much. From several starts the best is taken; then,
    for strides that halve, every layer is measured with more and with less, and the most promising exchanges between
    layers of equally many systems are tried together until none helps. The sum of states stays what it was.

    Args:
        trials: the model.
        chosen: sequences to measure on.
        start: allocations, (layers,) ranks each.
        floors, most: least and largest rank of each layer.
        stride: ranks move by multiples of it.
        step: progress.
    """
    count = len(trials.layers)
    known: dict[tuple[int, ...], float] = {}
    looks = 12 * count + 60  # a bound on the runs of the model; rarely reached

    def error(ranks: np.ndarray) -> float:
        key = tuple(int(r) for r in ranks)
        if key not in known:
            whole = {layer.name: np.full(layer.systems, r) for layer, r in zip(trials.layers, key, strict=True)}
            known[key] = trials.error(whole, chosen)
            step("exchange", min(len(known), looks), looks)
        return known[key]

    ranks = min((np.array(s) for s in start), key=error)
    move = max(stride, 2 ** int(np.log2(max(1, ranks.mean() / 2))) // stride * stride)
    while move >= stride and len(known) < looks:
        pair = _better(trials, error, ranks, np.asarray(floors), np.asarray(most), move)
        if pair is None:
            move //= 2
        else:
            ranks[pair[0]] += move
            ranks[pair[1]] -= move
    step("exchange", looks, looks)
    return [np.full(layer.systems, r) for layer, r in zip(trials.layers, ranks, strict=True)]


def _better(
    trials: Trials,
    error: Callable[[np.ndarray], float],
    ranks: np.ndarray,
    floors: np.ndarray,
    most: np.ndarray,
    move: int,
) -> tuple[int, int] | None:
    """(layer that gains, layer that gives) of the first promising exchange that lowers the error; None if none does."""
    unit = np.eye(len(ranks), dtype=np.int64) * move
    able = {a for a in range(len(ranks)) if ranks[a] + move <= most[a]}
    giving = {b for b in range(len(ranks)) if ranks[b] - move >= floors[b]}
    more = {a: error(ranks + unit[a]) for a in sorted(able)}
    less = {b: error(ranks - unit[b]) for b in sorted(giving)}
    systems = [layer.systems for layer in trials.layers]
    pairs = [(a, b) for a in more for b in less if a != b and systems[a] == systems[b]]
    pairs.sort(key=lambda pair: more[pair[0]] + less[pair[1]])
    now = error(ranks)
    for a, b in pairs[: len(ranks)]:
        if error(ranks + unit[a] - unit[b]) < now:
            return a, b
    return None
