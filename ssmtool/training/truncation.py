"""Balanced truncation while training goes on: start large, drop what turns out not to matter, continue smaller.

    schedule = Schedule.spaced(total_steps, energy=0.99)
    for step in range(total_steps):
        ...
        if schedule.due(step):
            model, optimizer, report = truncate(model, optimizer, energy=schedule.energy)

Source: Chahine et al., The curious case of in-training compression of state space models (CompreSSM), ICLR 2026,
arXiv:2510.02823: reductions at equal distances early in training. There the Hankel singular values are those of the
stored complex half; here those of the real input-output system.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ssmtool.errors import UsageError
from ssmtool.families._contract import Layer
from ssmtool.lti.hankel import hankel_singular_values
from ssmtool.lti.orders import order_for_energy
from ssmtool.lti.systems import DiagonalSystem
from ssmtool.pipeline.live_layers import LiveLayers, diagonal_system, live_tensors, refuse_unstable
from ssmtool.reductions import balanced, subset
from ssmtool.reductions._contract import Target
from ssmtool.reference.layouts._contract import ReferenceModel, StateSpace
from ssmtool.training.live_writing import arrays_of, layer_tensors, replace_tensors


@dataclass(frozen=True)
class Schedule:
    """At which steps to truncate, and how far.

    Attributes:
        steps: numbers of optimiser steps after which layers are cut, increasing.
        energy: share of the sum of Hankel singular values to keep each time, in (0, 1].
        max_orders: cap on the order after each of the steps; empty for none.
    """

    steps: tuple[int, ...]
    energy: float = 0.99
    max_orders: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if list(self.steps) != sorted(set(self.steps)) or min(self.steps, default=0) < 0:
            raise UsageError(f"steps {self.steps} of the truncations do not increase from 0")
        if self.max_orders and len(self.max_orders) != len(self.steps):
            raise UsageError(f"{len(self.max_orders)} orders for {len(self.steps)} truncations")

    @classmethod
    def spaced(cls, total: int, *, energy: float = 0.99, share: float = 0.1, count: int = 4) -> Schedule:
        """`count` truncations at equal distances within the first `share` of `total` steps, as CompreSSM has them."""
        if not (0 < share <= 1 and 1 <= count <= share * total):
            raise UsageError(f"{count} truncations do not fit into a share {share:g} of {total} steps")
        return cls(tuple(int(share * total * (i + 1) / count) for i in range(count)), energy)

    def due(self, step: int) -> bool:
        """Whether layers are to be cut after optimiser step number `step`."""
        return step in self.steps

    def max_order(self, step: int) -> int | None:
        """The cap on the order that comes with step number `step`."""
        return self.max_orders[self.steps.index(step)] if self.max_orders and step in self.steps else None


@dataclass(frozen=True)
class LayerTruncation:
    """What happened to one layer.

    Attributes:
        name: of the layer.
        slots_before, slots_after: stored slots per system.
        orders: (S,) int64, states of each real system that were kept.
        energy: least share of the sum of Hankel singular values that a system kept.
        bound: largest of the systems' a priori bounds 2 * (sum of the dropped values) on the H-infinity error.
    """

    name: str
    slots_before: int
    slots_after: int
    orders: np.ndarray
    energy: float
    bound: float


@torch.no_grad()
def truncate(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    energy: float | None = None,
    max_orders: int | Mapping[str, int] | None = None,
    least_gain: float = 0.05,
    layers: Iterable[str] | None = None,
    config: Mapping[str, Any] | None = None,
    family: str | None = None,
) -> tuple[nn.Module, torch.optim.Optimizer | None, tuple[LayerTruncation, ...]]:
    """Balanced truncation of every layer of a living model, in place.

    Every system is cut to the order that keeps a share of its Hankel singular values, and to `max_orders`; the layer
    gets as many slots as its largest system needs (a pair takes one, so does a real pole). Layers that store shared or
    real poles keep a subset of them instead. The module must take its state size from the shapes of its tensors, as
    the reference models do.

    The optimizer goes on with the same groups and settings. Tensors that did not change keep their moments. Those that
    did start anew, step count included: a balanced truncation mixes all modes, and the mean of squared gradients in the
    old coordinates says nothing about the new ones. Running averages of the weights have to be started anew too.

    Args:
        model: its tensors have the names of a known family.
        optimizer: one that trains it, or None.
        energy: share of the sum of Hankel singular values to keep per system, in (0, 1].
        max_orders: largest order of the real input-output systems, for all layers or by layer name.
        least_gain: a layer is left alone unless it loses at least this share of its slots.
        layers, config, family: as in `LiveLayers`.

    Returns:
        The model and the optimizer, the same objects, and what happened to each selected layer.

    Raises:
        UsageError: neither energy nor max_orders, or one out of range, or an unknown layer.
        UnstableError: a layer with an eigenvalue on or outside the unit circle; nothing has been changed then.
        FamilyError: no known layer, or one that cannot store the result in the tensors the model has.
    """
    live = LiveLayers(model, layers=layers, config=config, family=family)
    present = live_tensors(model)
    found = [(layer, arrays_of(tensors)) for layer, tensors in live]
    caps = _caps([layer for layer, _ in found], energy, max_orders)
    report, new, widths = [], {}, {}
    for layer, arrays in found:
        system = diagonal_system(layer, arrays)
        refuse_unstable(layer, system)
        row, smaller = _reduced(layer, system, energy, caps.get(layer.name), least_gain)
        report.append(row)
        if smaller is not None:
            new |= layer_tensors(layer, arrays, smaller, present)
            widths[next(iter(layer.tensors.values()))] = row.slots_after
    replace_tensors(model, new, optimizer)
    _tell(model, widths)
    return model, optimizer, tuple(report)


def _caps(layers: list[Layer], energy: float | None, max_orders: int | Mapping[str, int] | None) -> dict[str, int]:
    """Layer name -> largest order, where there is one. Raises UsageError."""
    if energy is None and max_orders is None:
        raise UsageError("no target for the truncation", remedy="Give energy, max_orders, or both")
    if energy is not None and not 0 < energy <= 1:
        raise UsageError(f"energy {energy:g} is not in (0, 1]")
    names = [layer.name for layer in layers]
    caps = dict.fromkeys(names, max_orders) if isinstance(max_orders, int) else dict(max_orders or {})
    for name, cap in caps.items():
        if name not in names:
            raise UsageError(f"no layer {name!r} to give an order to", remedy=f"Layers: {', '.join(names)}")
        if cap < 1:
            raise UsageError(f"order {cap} is below 1", where=name)
    return caps


def _reduced(
    layer: Layer, system: DiagonalSystem, energy: float | None, cap: int | None, least_gain: float
) -> tuple[LayerTruncation, DiagonalSystem | None]:
    """What becomes of a layer, and its smaller systems; None if it stays as it is."""
    spectrum = hankel_singular_values(system)
    minimal = layer.order - spectrum.redundant
    orders = minimal if energy is None else np.minimum(order_for_energy(spectrum.sigma, energy), minimal)
    orders = np.maximum(orders if cap is None else np.minimum(orders, cap), 1)
    untouched = LayerTruncation(layer.name, layer.slots, layer.slots, minimal, 1.0, 0.0)
    kept_poles = layer.constraints.shared_poles or layer.constraints.real_poles
    if orders.max() > (1 - least_gain) * layer.order:  # even a slot per pair would not save enough
        return untouched, None
    result = (subset if kept_poles else balanced).reduce(system, Target("rank", orders))
    smaller = result.system
    if smaller.slots > (1 - least_gain) * layer.slots:
        return untouched, None
    sigma = spectrum.sigma
    kept = np.where(np.arange(sigma.shape[1]) < result.orders[:, None], sigma, 0.0).sum(axis=1)
    total = np.where(sigma[:, 0] > 0, sigma.sum(axis=1), 1.0)
    share = float(np.where(sigma[:, 0] > 0, kept / total, 1.0).min())
    row = LayerTruncation(layer.name, layer.slots, smaller.slots, result.orders, share, float(result.bound.max()))
    return row, smaller


def _tell(model: nn.Module, widths: Mapping[str, int]) -> None:
    """Reference models carry their sizes along: bring those up to date; `widths` by one tensor of each layer."""
    for path, module in model.named_modules():
        if isinstance(module, StateSpace):
            for tensor, width in widths.items():
                if tensor.startswith(f"{path}."):
                    module.slots = width
    for module in model.modules():
        if isinstance(module, ReferenceModel):
            module.sizes = replace(module.sizes, slots=tuple(layer.slots for layer in module.state_spaces()))
