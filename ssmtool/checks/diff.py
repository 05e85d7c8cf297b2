"""Two models, or documents about them, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ssmtool.checks.measure import measured, recalled
from ssmtool.checks.rules._contract import Measurement

if TYPE_CHECKING:
    from ssmtool.checks.baseline import Recorded
    from ssmtool.checks.record import Record
    from ssmtool.checks.subject import Bench
    from ssmtool.families._contract import Layer

_ROUNDING = 1e-9  # relative: the same checkpoint on another machine

RULES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "order_energy_0.99": ("order", {"energy": 0.99, "error": None, "over": "largest"}),
    "order_error_1e-2": ("order", {"energy": None, "error": 0.01, "over": "largest"}),
    "effective_size": ("effective_size", {"over": "median"}),
    "redundant": ("redundant", {}),
    "unstable": ("unstable", {}),
    "margin": ("margin", {}),
    "horizon": ("horizon", {"left": 0.01, "over": "largest"}),
}
"""Number -> the rule that measures it, and its keys."""

NUMBERS = ("systems", "states", "bytes", "hankel_norm", *RULES)


@dataclass(frozen=True)
class Profile:
    """What is known of a layer.

    Attributes:
        kind: family and variant, "" if unknown.
        numbers: by name, of NUMBERS; those that are known.
        sigma: (S, n) Hankel singular values, or calibrated ones; None if unknown.
    """

    kind: str
    numbers: Mapping[str, float]
    sigma: np.ndarray | None


@dataclass(frozen=True)
class LayerDiff:
    """One layer.

    Attributes:
        name: its name.
        before, after: None where there is no such layer.
        sigma_change: largest |sigma_k - sigma'_k| over systems and k, relative to the larger sigma_1 of the system,
            values that one of them lacks being 0; None where one of them is unknown, or the systems differ in number.
    """

    name: str
    before: Profile | None
    after: Profile | None
    sigma_change: float | None

    def pairs(self) -> dict[str, tuple[float | None, float | None]]:
        """Number -> before, after; those that at least one of the two has."""
        sides = [{} if side is None else side.numbers for side in (self.before, self.after)]
        found = {name: (sides[0].get(name), sides[1].get(name)) for name in NUMBERS}
        return {name: pair for name, pair in found.items() if pair != (None, None)}

    @property
    def changed(self) -> bool:
        """Whether the layer came or went, or something that both sides know differs by more than rounding."""
        if self.before is None or self.after is None:
            return True
        kinds = self.before.kind and self.after.kind and self.before.kind != self.after.kind
        known = ((x, y) for x, y in self.pairs().values() if x is not None and y is not None)
        return bool(kinds) or any(differ(x, y) for x, y in known) or (self.sigma_change or 0.0) > _ROUNDING


def differ(x: float, y: float) -> bool:
    """Whether two numbers differ by more than rounding."""
    return x != y and not (math.isfinite(x - y) and abs(x - y) <= _ROUNDING * max(abs(x), abs(y)))


def diff(before: Mapping[str, Profile], after: Mapping[str, Profile]) -> tuple[LayerDiff, ...]:
    """Layers of both, by name: in the order of `before`, then those that only `after` has."""
    names = [*before, *(name for name in after if name not in before)]
    return tuple(_layer(name, before.get(name), after.get(name)) for name in names)


def profiles_of_model(bench: Bench, layers: Sequence[Layer]) -> dict[str, Profile]:
    """Profiles of an opened model's layers.

    Raises:
        CheckpointError, FamilyError: tensors that cannot be read or understood.
    """
    from ssmtool.pipeline.storage import tensor_bytes

    found = {name: measured(bench, rule, keys, layers) for name, (rule, keys) in RULES.items()}
    bench.prepare([layer for layer in layers if layer.lti])
    profiles = {}
    for layer in layers:
        numbers = {"systems": float(layer.systems), "states": float(layer.order)}
        numbers["bytes"] = float(sum(tensor_bytes(bench.model.checkpoint.tensors[n]) for n in layer.tensors.values()))
        for name in RULES:
            number = found[name][layer.name]
            if isinstance(number, Measurement):
                numbers[name] = number.value
        sigma = bench.spectrum(layer).sigma if layer.lti else None
        profiles[layer.name] = _profile(f"{layer.family} {layer.variant}", numbers, sigma)
    return profiles


def profiles_of_document(recorded: Recorded) -> dict[str, Profile]:
    """Profiles of the layers a document knows. A compress document stands for what compress made."""
    return {name: _recorded(record) for name, record in recorded.layers.items()}


def _recorded(record: Record) -> Profile:
    facts, made = record.facts, record.reduced
    numbers: dict[str, float | None] = {"systems": facts.systems, "states": facts.order, "bytes": record.size}
    if made is not None:
        numbers["states"], numbers["bytes"] = None, made.bytes_after
    for name, (rule, keys) in RULES.items():
        number = recalled(rule, keys, "layer", record)
        numbers[name] = None if number is None else number.value
    kind = f"{facts.family} {facts.variant}" if facts.family and facts.variant else ""
    known = {name: float(value) for name, value in numbers.items() if value is not None}
    return _profile(kind, known, record.values if record.sigma is None else record.sigma)


def _profile(kind: str, numbers: dict[str, float], sigma: np.ndarray | None) -> Profile:
    if sigma is not None:
        finite = np.where(np.isinf(sigma), 0.0, sigma)
        numbers["hankel_norm"] = float(finite.max(initial=0.0))
    return Profile(kind, numbers, sigma)


def _layer(name: str, before: Profile | None, after: Profile | None) -> LayerDiff:
    change = None
    if before is not None and after is not None and before.sigma is not None and after.sigma is not None:
        change = _change(before.sigma, after.sigma)
    return LayerDiff(name, before, after, change)


def _change(first: np.ndarray, second: np.ndarray) -> float | None:
    """See `LayerDiff.sigma_change`; infinite values that face each other are equal."""
    if len(first) != len(second):
        return None
    width = max(first.shape[1], second.shape[1])
    x, y = (np.pad(sigma, ((0, 0), (0, width - sigma.shape[1]))) for sigma in (first, second))
    if (np.isinf(x) != np.isinf(y)).any():
        return math.inf
    x, y = (np.where(np.isinf(sigma), 0.0, sigma) for sigma in (x, y))
    top = np.maximum(x.max(axis=1, initial=0.0), y.max(axis=1, initial=0.0))
    return float((np.abs(x - y).max(axis=1, initial=0.0) / np.where(top > 0, top, 1.0)).max(initial=0.0))
