"""What an earlier document knows of one layer: the numbers that rules can be recalled from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict


class Row(BaseModel):
    """A row of a document, of which only some fields are read."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Quantiles(Row):
    """Over the systems of a layer."""

    smallest: float
    median: float
    largest: float


class TimesRow(Row):
    """Of section timescales."""

    name: str
    source: str
    margin: float
    horizon: Quantiles | None = None


class MemoryRow(Row):
    """Of section memory."""

    name: str
    kind: str
    states: int
    effective: float | None = None
    reach: float | None = None


class Signs(Row):
    """Eigenvalues by the sign of their real part."""

    positive: int
    negative: int


class DynamicsRow(Row):
    """Of section token_dynamics."""

    name: str
    regime: str
    moment: Signs | None = None


class Facts(Row):
    """What every layer of most documents has."""

    name: str
    family: str | None = None
    variant: str | None = None
    systems: int | None = None
    inputs: int | None = None
    outputs: int | None = None
    order: int | None = None
    stored_slots: int | None = None


class Result(Row):
    """Of a check."""

    rule: str
    keys: dict[str, Any]
    scope: str
    layer: str
    layers: list[str]
    value: float | None
    whole: float | None = None


@dataclass(frozen=True)
class ReducedRow:
    """A layer and what compress made of it, or would make.

    Attributes:
        target, method: what was asked for.
        bytes_before, bytes_after: of the layer's tensors.
        states_before, states_after: of all systems.
        hinf, h2: relative errors, the largest of the systems.
        reason: why there is no reduced layer; it then counts as it is. "".
    """

    target: str
    method: str
    bytes_before: int
    bytes_after: int
    states_before: int
    states_after: int
    hinf: float
    h2: float
    reason: str = ""


@dataclass(frozen=True)
class Record:
    """One layer of one document; None or empty where the document says nothing.

    Attributes:
        facts: name, family, sizes.
        sigma: (S, n) Hankel singular values.
        values: (G, N) calibrated values of all mixers of a selective layer.
        redundant, unstable: states, all systems together.
        size: bytes of the layer's tensors.
        total: whether the sum over the systems is asked for.
    """

    facts: Facts
    sigma: np.ndarray | None = None
    values: np.ndarray | None = None
    redundant: int | None = None
    unstable: int | None = None
    size: int | None = None
    times: tuple[TimesRow, ...] = ()
    memory: tuple[MemoryRow, ...] = ()
    dynamics: tuple[DynamicsRow, ...] = ()
    reduced: ReducedRow | None = None
    results: tuple[Result, ...] = ()
    total: bool = False

    @property
    def stored(self) -> float | None:
        """States of all systems as stored."""
        order, systems = self.facts.order, self.facts.systems
        return None if order is None or systems is None else float(order * systems)
