"""How many states carry a layer's output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ssmtool.checks.rules._contract import Basis, Measurement
from ssmtool.checks.rules._systems import Over, OverKeys, over

if TYPE_CHECKING:
    from ssmtool.checks.record import Record
    from ssmtool.checks.subject import Subject
    from ssmtool.families._contract import Layer

SUMMARY = "exp of the entropy of σ²: states that carry the output"
UNIT = "states"
HAS_WHOLE = True
ADDS_UP = False
DEFAULT_LIMITS: dict[str, Any] = {}


class Keys(OverKeys):
    """The median over the systems by default, as in diagnose."""

    over: Over = "median"


def title(keys: Mapping[str, Any]) -> str:
    """In words."""
    return "effective state size" + ("" if keys["over"] == "median" else f", {keys['over']} of the systems")


def basis(layer: Layer, keys: Mapping[str, Any]) -> Basis:
    """Hankel singular values, or calibrated ones."""
    return "spectrum" if layer.lti else "tokens"


def measure(subject: Subject, keys: Mapping[str, Any]) -> Measurement:
    """Per system of a linear layer, per group of a selective one."""
    if subject.layer.lti:
        return _of(subject.spectrum().sigma, keys)
    return _of(np.concatenate([part.values for part in subject.calibrated()]), keys)


def recall(record: Record, keys: Mapping[str, Any]) -> Measurement | None:
    """From the values of an hsv document, or, for the median, from a diagnosis."""
    sigma = record.values if record.sigma is None else record.sigma
    if sigma is not None:
        return _of(sigma, keys)
    for row in record.memory:
        if row.kind == "linear" and row.effective is not None and keys["over"] == "median":
            return Measurement(row.effective, row.states)
    return None


def _of(sigma: np.ndarray, keys: Mapping[str, Any]) -> Measurement:
    """exp(-sum p ln p), p = sigma^2 / sum sigma^2, per system; states with an infinite value count one each.

    Source: Roy & Vetterli, "The effective rank", EUSIPCO 2007.
    """
    infinite = np.isinf(sigma)
    finite = np.where(infinite, 0.0, sigma)
    top = finite.max(axis=1, initial=0.0, keepdims=True)
    energy = np.square(finite / np.where(top > 0, top, 1.0))  # tiny values would underflow unscaled
    total = energy.sum(axis=1, keepdims=True)
    p = energy / np.where(total > 0, total, 1.0)
    size = np.exp(-np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=1)) * (total[:, 0] > 0) + infinite.sum(axis=1)
    value = float(np.median(size)) if keys["over"] == "median" else over(size, keys["over"])  # as diagnose has it
    return Measurement(value, float(sigma.shape[1]))
