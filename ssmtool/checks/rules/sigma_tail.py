"""How much of a layer lies beyond its first so many states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import field_validator

from ssmtool.checks.limits import parse_limit
from ssmtool.checks.rules._contract import Basis, Measurement
from ssmtool.checks.rules._systems import OverKeys, of_systems, over

if TYPE_CHECKING:
    from ssmtool.checks.record import Record
    from ssmtool.checks.subject import Subject
    from ssmtool.families._contract import Layer

SUMMARY = "Share of Σσ beyond the first so many values"
UNIT = ""
HAS_WHOLE = False
ADDS_UP = False
DEFAULT_LIMITS: dict[str, Any] = {}


class Keys(OverKeys):
    """`beyond`: states, or a percentage of those stored."""

    beyond: int | str

    @field_validator("beyond")
    @classmethod
    def _range(cls, value: int | str) -> int | str:
        amount = parse_limit("max", value).amount
        if amount < 0 or (isinstance(value, str) and amount > 100):
            raise ValueError("is neither a number of states nor a percentage of them")
        return value


def title(keys: Mapping[str, Any]) -> str:
    """In words."""
    beyond = keys["beyond"]
    what = f"{beyond} states" if isinstance(beyond, int) else f"{beyond.replace(' ', '')} of the states"
    return f"share of Σσ beyond {what}{of_systems(keys)}"


def basis(layer: Layer, keys: Mapping[str, Any]) -> Basis:
    """Hankel singular values, or calibrated ones."""
    return "spectrum" if layer.lti else "tokens"


def measure(subject: Subject, keys: Mapping[str, Any]) -> Measurement:
    """A share in [0, 1]; states on or outside the unit circle come first and are no part of the sum."""
    if subject.layer.lti:
        return _of(subject.spectrum().sigma, keys)
    return _of(np.concatenate([part.values for part in subject.calibrated()]), keys)


def recall(record: Record, keys: Mapping[str, Any]) -> Measurement | None:
    """From the values of an hsv document."""
    sigma = record.values if record.sigma is None else record.sigma
    return None if sigma is None else _of(sigma, keys)


def _of(sigma: np.ndarray, keys: Mapping[str, Any]) -> Measurement:
    stored = sigma.shape[1]
    beyond = keys["beyond"]
    first = beyond if isinstance(beyond, int) else int(parse_limit("max", beyond).amount / 100 * stored + 1e-9)
    finite = np.where(np.isinf(sigma), 0.0, sigma)
    total = finite.sum(axis=1)
    tail = finite[:, first:].sum(axis=1)
    return Measurement(over(np.divide(tail, total, out=np.zeros_like(tail), where=total > 0), keys["over"]))
