"""How much the model's outputs change, to first order, when one system of a layer is cut to a rank.

A layer that stores the original's slots and the reduced system's side by side, output weights (1 - alpha_s) C_s and
alpha_s C_s,r, goes from one to the other as alpha goes from 0 to 1. With v drawn from N(0, I) for the outputs z,

    E_v (d/d alpha_s v^T z)^2 = sum over sequences of ||J_s e_s||^2,

e_s the error of the system's output signal on its own inputs, J_s the Jacobian of the model's outputs with respect to
it. Stored tensors are linear in the output weights, so backpropagation to those gives the derivatives of all systems
at once, whatever the model does between its layers.

Source: Hutchinson, Commun. Statist. Simula. 19 (1990), for the random directions; docs/allocate.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ssmtool.families._contract import Layer
from ssmtool.lti.systems import DiagonalSystem
from ssmtool.pipeline.live import outputs_of
from ssmtool.pipeline.live_layers import live_tensors
from ssmtool.pipeline.spending import between, ranks_to_measure
from ssmtool.pipeline.storage import Tensors, store
from ssmtool.pipeline.trials import Trials

Step = Callable[[str, int, int], None]
Owners = dict[str, tuple[np.ndarray, np.ndarray]]  # tensor -> change of its entries, system each belongs to or -1
PROBES = 16  # random directions per batch: an estimate is right within a third, and batches add up
_BATCH = 16  # sequences that are differentiated at once
_START = 1e-3  # alpha at which is differentiated: a slot of weight 0 would be stored as padding


def channel_curves(trials: Trials, data: torch.Tensor, most: Sequence[int], step: Step) -> list[np.ndarray | None]:
    """Mean square change of the outputs against the rank of one system; per layer (S, n + 1) float64.

    Args:
        trials: the model.
        data: (K, L, ...) inputs.
        most: largest rank of each layer.
        step: progress.

    Returns:
        None for layers of one system, and for those whose stored tensors are not linear in its output weights.
    """
    grids = [ranks_to_measure(n) for n in most]
    rounds = max(map(len, grids))
    found: list[np.ndarray | None] = [
        np.zeros((layer.systems, len(grid))) if layer.systems > 1 else None
        for layer, grid in zip(trials.layers, grids, strict=True)
    ]
    for j in range(rounds):
        turns = {i: grids[i][j] for i, x in enumerate(found) if x is not None and j < len(grids[i])}
        blends = {i: _blended(trials, trials.layers[i], rank) for i, rank in turns.items()}
        energies = _energies(trials, {i: blend for i, blend in blends.items() if blend is not None}, data)
        for i in turns:
            part = found[i]
            if i not in energies or part is None:
                found[i] = None
            else:
                part[:, j] = energies[i]
        step("channels", j + 1, rounds)
    return [None if part is None else between(grid, part, n) for part, grid, n in zip(found, grids, most, strict=True)]


def _blended(trials: Trials, layer: Layer, rank: int) -> tuple[Tensors, Owners] | None:
    """Tensors at alpha = _START, and per tensor the change for d alpha = 1 and the system each entry belongs to."""
    system = trials.cuts.systems[layer.name]
    if not isinstance(system, DiagonalSystem) or layer.constraints.shared_poles:
        return None
    reduced, _ = trials.cuts.reduced(layer, np.full(layer.systems, rank))
    a, B = np.concatenate([system.a, reduced.a], 1), np.concatenate([system.B, reduced.B], 1)
    C = np.concatenate([system.C, np.zeros_like(reduced.C)], 2)
    change = np.concatenate([-system.C, reduced.C], 2)

    def at(alpha: np.ndarray) -> Tensors:
        mixed = DiagonalSystem(a, B, C + alpha[:, None, None] * change, system.D, real=system.real and reduced.real)
        return store(trials.bench.model, layer, mixed, a.shape[1])

    ones = np.ones(layer.systems)
    number = np.arange(layer.systems) + 2.0
    start, once, numbered = at(_START * ones), at((_START + 1) * ones), at(_START * ones + number)
    owners = {}
    for name, (array, _) in start.items():
        if array is None:
            continue
        (one, _), (many, _) = once[name], numbered[name]
        if one is None or many is None or one.shape != array.shape or many.shape != array.shape:
            return None
        slope, spread = one - array, many - array
        moving = np.abs(slope) > 1e-12 * np.abs(array).max(initial=0.0)
        if not moving.any():
            continue
        ratio = np.real(np.divide(spread, slope, out=np.zeros_like(spread), where=moving))
        owner = np.where(moving, np.rint(ratio).astype(np.int64) - 2, -1)
        # An entry of system s that is linear in C has moved s + 2 times as far.
        if (np.abs(ratio - np.rint(ratio))[moving] > 1e-3).any() or not (owner[moving] >= 0).all():
            return None
        if owner.max() >= layer.systems:
            return None
        owners[name] = (slope, owner)
    return (start, owners) if owners else None


def _energies(
    trials: Trials,
    blends: dict[int, tuple[Tensors, Owners]],
    data: torch.Tensor,
) -> dict[int, np.ndarray]:
    """Mean over sequences of ||J_s e_s||^2 per layer, (S,) float64; layers that no gradient reaches are left out."""
    if not blends:
        return {}
    module = trials.bench.module({trials.layers[i].name: blend[0] for i, blend in blends.items()})
    live = live_tensors(module)
    wanted = [(i, name) for i, blend in blends.items() for name in blend[1] if name in live]
    for _, name in wanted:
        live[name].requires_grad_(True)
    generator = torch.Generator().manual_seed(0)
    total = {i: np.zeros(trials.layers[i].systems) for i, _ in wanted}
    with torch.enable_grad():
        for part in data.split(_BATCH):
            out = outputs_of(module(part))
            for _ in range(PROBES):
                direction = torch.randn(out.shape, generator=generator).to(out)
                if trials.divergence:  # what all classes share changes no probability
                    direction = direction - direction.mean(-1, keepdim=True)
                gradients = torch.autograd.grad(
                    (out * direction).sum(), [live[name] for _, name in wanted], retain_graph=True, allow_unused=True
                )
                slopes = {i: np.zeros(len(x)) for i, x in total.items()}
                for (i, name), gradient in zip(wanted, gradients, strict=True):
                    if gradient is None:
                        continue
                    change, owner = blends[i][1][name]
                    moved = (gradient.resolve_conj().cpu().numpy().conj() * change).real
                    held = owner >= 0
                    slopes[i] += np.bincount(owner[held], moved[held], minlength=len(slopes[i]))
                for i, slope in slopes.items():
                    total[i] += np.square(slope) / (PROBES * len(data))
    return {i: x for i, x in total.items() if x.any()}
