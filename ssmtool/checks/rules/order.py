"""How many states a layer needs, for a share of its Hankel singular values or for an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field, model_validator

from ssmtool.checks.rules._contract import Basis, Measurement
from ssmtool.checks.rules._systems import OverKeys, of_systems, over
from ssmtool.lti.orders import order_for_energy, order_for_error

if TYPE_CHECKING:
    from ssmtool.checks.record import Record
    from ssmtool.checks.subject import Subject
    from ssmtool.families._contract import Layer

SUMMARY = "States that a share of Σσ, or a bound of the relative error, needs"
UNIT = "states"
HAS_WHOLE = True
ADDS_UP = True
DEFAULT_LIMITS: dict[str, Any] = {}

_ENERGY = 0.99


class Keys(OverKeys):
    """Exactly one of `energy` and `error`."""

    energy: float | None = Field(None, gt=0, lt=1)
    error: float | None = Field(None, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _one(cls, table: dict[str, Any]) -> dict[str, Any]:
        if "energy" in table and "error" in table:
            raise ValueError("order takes energy or error, not both")
        return table if "error" in table else {"energy": _ENERGY, **table}


def title(keys: Mapping[str, Any]) -> str:
    """In words."""
    for_what = f"{100 * keys['energy']:g} % of Σσ" if keys["energy"] is not None else f"error {keys['error']:g}"
    return f"order for {for_what}{of_systems(keys)}"


def basis(layer: Layer, keys: Mapping[str, Any]) -> Basis:
    """Hankel singular values, or calibrated ones."""
    return "spectrum" if layer.lti else "tokens"


def measure(subject: Subject, keys: Mapping[str, Any]) -> Measurement:
    """States, of those stored. Unstable ones are always needed."""
    if subject.layer.lti:
        return _of(subject.spectrum().sigma, keys, subject.total)
    values = np.concatenate([part.values for part in subject.calibrated()])
    return of_calibrated(values, keys, subject.total)


def recall(record: Record, keys: Mapping[str, Any]) -> Measurement | None:
    """From the values of an hsv document."""
    if record.sigma is not None:
        return _of(record.sigma, keys, record.total)
    return None if record.values is None else of_calibrated(record.values, keys, record.total)


def of_calibrated(values: np.ndarray, keys: Mapping[str, Any], total: bool) -> Measurement:
    """Of calibrated values (G, N): per group, with the predicted error sqrt(sum_{i>r} s_i^2 / sum s^2) for `error`."""
    if keys["energy"] is not None:
        return _reduced(order_for_energy(values, keys["energy"]), values.shape[1], keys, total)
    needed = order_for_energy(np.square(values), max(0.0, 1 - keys["error"] ** 2))
    return _reduced(needed, values.shape[1], keys, total)


def _of(sigma: np.ndarray, keys: Mapping[str, Any], total: bool) -> Measurement:
    if keys["energy"] is not None:
        return _reduced(order_for_energy(sigma, keys["energy"]), sigma.shape[1], keys, total)
    return _reduced(order_for_error(sigma, keys["error"]), sigma.shape[1], keys, total)


def _reduced(orders: np.ndarray, stored: int, keys: Mapping[str, Any], total: bool) -> Measurement:
    if total:
        return Measurement(float(orders.sum()), float(stored * len(orders)))
    return Measurement(over(orders, keys["over"]), float(stored))
