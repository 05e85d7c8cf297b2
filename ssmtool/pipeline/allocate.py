"""A total number of states, shared out among layers and channels, and judged against the same for all.

Candidates spend the same total: uniform; by the a priori bound, from weights alone; by what the model's outputs lose
on calibration inputs. "best" runs them all on inputs none of them has seen and keeps the one that loses least.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ssmtool.cache import Cache
from ssmtool.errors import UsageError
from ssmtool.families._contract import Layer
from ssmtool.lti.hankel import Spectrum, hankel_singular_values
from ssmtool.lti.orders import tail_bound
from ssmtool.pipeline.allocation import AllocateOptions, Allocation, Candidate
from ssmtool.pipeline.channel_sensitivity import channel_curves
from ssmtool.pipeline.cuts import Cuts
from ssmtool.pipeline.layer_sensitivity import exchanged, layer_curves
from ssmtool.pipeline.spending import spend
from ssmtool.pipeline.trials import Trials
from ssmtool.pipeline.workbench import Workbench
from ssmtool.reductions._contract import Target

Step = Callable[[str, int, int], None]
MEASURED = 256  # sequences, at least where there are as many, that layers are measured on
DIFFERENTIATED = 64  # and channels


@dataclass(frozen=True)
class _Room:
    """What a layer can be given.

    Attributes:
        layer: the layer.
        spectrum: of its systems.
        floors, most: (S,) least and largest rank of each system: 1 or its unstable states; its minimal order.
        single: whether its systems cannot differ, because there is one or because they share poles.
        step: ranks of whole layers are multiples of it: a slot that is a pair of states costs the same half used.
    """

    layer: Layer
    spectrum: Spectrum
    floors: np.ndarray
    most: np.ndarray
    single: bool
    step: int

    @property
    def tails(self) -> np.ndarray:
        """(S, n + 1) sum of the dropped Hankel singular values by rank, unstable states never dropped."""
        return tail_bound(_finite(self.spectrum.sigma)) / 2


def _finite(sigma: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(sigma), sigma, 0.0)


def shared_out(
    cuts: Cuts,
    uniform: Sequence[Target],
    options: AllocateOptions,
    bench: Workbench | None,
    step: Step = lambda name, done, total: None,
    cache: Cache | None = None,
) -> Allocation:
    """Share out the states that `uniform` takes.

    Args:
        cuts: the layers.
        uniform: one rank target per layer; the total is sum_l S_l r_l.
        options: what was asked, checked (`checked_options`).
        bench: the model on calibration inputs; needed for "sensitivity" and "best".
        step: progress, called with (what, done, total).
        cache: where what trials measured is kept; nowhere by default.

    Raises:
        UsageError: channels of a model whose layers have none of their own.
        ReductionError: fewer states than have to stay.
        CalibrationError: labels that do not fit the model's outputs.
    """
    rooms = [_room(cuts, layer) for layer in cuts.layers]
    if options.per_channel and all(room.single for room in rooms):
        raise UsageError(
            "--per-channel: no layer has several systems with poles of their own",
            remedy="Leave it out: ranks then differ from layer to layer",
        )
    same = [np.full(room.layer.systems, target.rank) for room, target in zip(rooms, uniform, strict=True)]
    total = int(sum(ranks.sum() for ranks in same))
    trials = None if bench is None else Trials(bench, cuts, options, cache)
    plans: dict[tuple[str, bool], list[np.ndarray]] = {("uniform", False): same}
    both = (False, True) if options.kind == "best" and not all(r.single for r in rooms) else (options.per_channel,)
    for per_channel in both:
        if options.kind in ("bound", "best"):
            plans["bound", per_channel] = _by_bound(rooms, total, per_channel, cuts)
        if options.kind in ("sensitivity", "best") and trials is not None:
            starts = [same, _by_bound(rooms, total, False, cuts)]
            plans["sensitivity", per_channel] = _by_sensitivity(rooms, total, per_channel, starts, trials, step)
    found = [_candidate(kind, channels, plan, cuts, trials) for (kind, channels), plan in plans.items()]
    if options.kind != "best":
        kept = found[-1]
        shown = found if trials is not None else [kept]
    else:
        asked = {"channels": options.per_channel, "layers": cuts.per_layer or options.per_channel}
        shown = [_judged_fairly(candidate, found[0], asked) for candidate in found]
        kept = min((c for c in shown if c.allowed), key=lambda c: np.inf if c.loss is None else c.loss)
    names = tuple(layer.name for layer in cuts.layers)
    judged = 0 if bench is None else len(bench.data[_judging(len(bench.data))])
    measure = "" if trials is None else trials.measure
    return Allocation(options.kind, names, total, kept, tuple(shown), measure, judged)


def _judging(count: int) -> slice:
    """Every other sequence judges, and nothing is chosen on it."""
    return slice(1, count, 2)


def _choosing(count: int) -> slice:
    """The rest, thinned to MEASURED up to twice as many."""
    return slice(0, count, 2 * max(1, count // (2 * MEASURED)))


def _room(cuts: Cuts, layer: Layer) -> _Room:
    spectrum = hankel_singular_values(cuts.systems[layer.name], cuts.device)
    paired = layer.order == 2 * layer.slots
    return _Room(
        layer,
        spectrum,
        np.maximum(np.isinf(spectrum.sigma).sum(axis=1), 1),
        np.maximum(layer.order - spectrum.redundant, 1),
        layer.systems == 1 or layer.constraints.shared_poles or layer.constraints.real_poles,
        2 if paired else 1,
    )


def _by_bound(rooms: Sequence[_Room], total: int, per_channel: bool, cuts: Cuts) -> list[np.ndarray]:
    """Least sum over layers of the a priori bounds of all systems over the sum of their Hankel norms."""
    costs = []
    for room in rooms:
        norm = _finite(room.spectrum.sigma).max(axis=1, initial=0.0).sum()
        costs.append(2 * room.tails / (norm if norm > 0 else 1.0))
    return _spent(rooms, costs, total, per_channel, cuts)


def _by_sensitivity(
    rooms: Sequence[_Room],
    total: int,
    per_channel: bool,
    starts: Sequence[list[np.ndarray]],
    trials: Trials,
    step: Step,
) -> list[np.ndarray]:
    """What the outputs lose: of whole layers measured, of their channels to first order."""
    choosing = _choosing(len(trials.bench.data))
    most = [int(room.most.max()) for room in rooms]
    curves: list[np.ndarray | None] = [None] * len(rooms)
    if per_channel:
        data = trials.bench.data[choosing]
        spread = data[:: max(1, len(data) // DIFFERENTIATED)]
        curves = [
            None if room.single else curve
            for room, curve in zip(rooms, channel_curves(trials, spread, most, step), strict=True)
        ]
        if all(curve is not None for curve in curves):
            return _spent(rooms, [c for c in curves if c is not None], total, True, trials.cuts)
    layers = layer_curves(trials, choosing, most, step)
    if per_channel:
        return _spent(rooms, _in_one_unit(rooms, layers, curves, total), total, True, trials.cuts)
    shares = [curve[None] / room.layer.systems for room, curve in zip(rooms, layers, strict=True)]
    first = _spent(
        rooms, [np.repeat(x, r.layer.systems, 0) for x, r in zip(shares, rooms, strict=True)], total, False, trials.cuts
    )
    whole = [np.array([ranks[0] for ranks in plan]) for plan in (*starts, first)]
    floors = [int(room.floors.max()) for room in rooms]
    return exchanged(trials, choosing, whole, floors, most, max(room.step for room in rooms), step)


def _in_one_unit(
    rooms: Sequence[_Room], layers: Sequence[np.ndarray], channels: Sequence[np.ndarray | None], total: int
) -> list[np.ndarray]:
    """Curves (S, n + 1) of every layer where only some have channel curves: the others are measured, brought to scale.

    Inside a layer of several systems without channel curves, the dropped energy sum sigma^2 tells them apart.
    """
    mean = total // sum(room.layer.systems for room in rooms)
    ratios = [
        curve[:, min(mean, curve.shape[1] - 1)].sum() / layer[min(mean, len(layer) - 1)]
        for curve, layer in zip(channels, layers, strict=True)
        if curve is not None and layer[min(mean, len(layer) - 1)] > 0
    ]
    scale = float(np.median(ratios)) if ratios else 1.0
    found = []
    for room, layer, curve in zip(rooms, layers, channels, strict=True):
        if curve is not None:
            found.append(curve)
            continue
        if room.single:
            found.append(np.repeat(scale * layer[None] / room.layer.systems, room.layer.systems, axis=0))
            continue
        sigma = _finite(room.spectrum.sigma)
        energy = tail_bound(np.square(sigma)) / 2
        at = energy[:, min(mean, energy.shape[1] - 1)].sum()
        found.append(energy * (scale * layer[min(mean, len(layer) - 1)] / at if at > 0 else 0.0))
    return found


def _spent(
    rooms: Sequence[_Room], costs: Sequence[np.ndarray], total: int, per_channel: bool, cuts: Cuts
) -> list[np.ndarray]:
    """Ranks per layer from cost curves (S, n + 1) of all systems: one rank per layer, or one per system."""
    units, sizes, floors = [], [], []
    for room, cost in zip(rooms, costs, strict=True):
        if per_channel and not room.single:
            units += [row[: most + 1] for row, most in zip(cost, room.most, strict=True)]
            sizes += [1] * len(cost)
            floors += list(room.floors)
        else:
            units.append(cost.sum(axis=0)[: int(room.most.max()) + 1])
            sizes.append(room.layer.systems)
            floors.append(int(room.floors.max()))
    whole_slots = not per_channel or cuts.how.least_slots
    stride = max(room.step for room in rooms) if whole_slots else 1
    ranks = iter(spend(units, sizes, floors, total, stride))
    plan = []
    for room in rooms:
        count = room.layer.systems
        if per_channel and not room.single:
            plan.append(np.array([next(ranks) for _ in range(count)], dtype=np.int64))
        else:
            plan.append(np.full(count, next(ranks), dtype=np.int64))
    return plan


def _candidate(kind: str, channels: bool, plan: list[np.ndarray], cuts: Cuts, trials: Trials | None) -> Candidate:
    """A plan with what it takes and, where the model runs, what it scores."""
    states = int(sum(ranks.sum() for ranks in plan))
    found = Candidate(kind, channels, tuple(plan), states, cuts.bytes_after(plan))
    if trials is None:
        return found
    named = {layer.name: ranks for layer, ranks in zip(cuts.layers, plan, strict=True)}
    loss, accuracy = trials.score(named, _judging(len(trials.bench.data)))
    return replace(found, loss=loss, accuracy=accuracy)


def _judged_fairly(candidate: Candidate, uniform: Candidate, asked: dict[str, bool]) -> Candidate:
    """Whether it may win: as stored it takes no more bytes than uniform, or such a layout was asked for."""
    wanted = asked["channels"] if candidate.per_channel else asked["layers"]
    return replace(candidate, allowed=wanted or candidate.bytes_after <= uniform.bytes_after)
