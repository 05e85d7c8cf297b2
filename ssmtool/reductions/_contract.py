"""What a reduction file provides. A reduction is a module; these are the types its functions speak.

A reduction module defines
    SUMMARY: str                  one line for --help and the docs table
    REFERENCE: str                paper it comes from
    OPTIONS: tuple[str, ...]      names of the `Options` it reads; those in NEEDS must be given
    NEEDS: tuple[str, ...]
    COMPLEXITY: int               which of two methods with the same error is the simpler one: 0 keeps stored poles,
                                  1 one projection, 2 a projection and another equation, 3 an iteration
    reduce(system, target, *, options, device, progress) -> Result

It sees canonical systems only, and every system it is given is stable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ssmtool.lti.hankel import Spectrum
from ssmtool.lti.orders import order_for_energy, order_for_error
from ssmtool.lti.systems import DiagonalSystem


@dataclass(frozen=True)
class Target:
    """What the user asked for.

    Attributes:
        kind: "rank": states per system; "energy": share of the sum of Hankel singular values to keep; "error":
            largest H-infinity error relative to the Hankel norm.
        value: a positive number; for rank an integer, or (S,) int64, one per system.
    """

    kind: Literal["rank", "energy", "error"]
    value: float | np.ndarray

    @property
    def share(self) -> float:
        """The value of an energy or error target."""
        return float(self.value)

    @property
    def rank(self) -> int:
        """The largest rank that a rank target asks of any system."""
        return int(np.max(self.value))

    def orders(self, spectrum: Spectrum) -> np.ndarray:
        """(S,) int64, states each system needs to meet the target by its Hankel singular values."""
        if self.kind == "energy":
            return order_for_energy(spectrum.sigma, self.share)
        if self.kind == "error":
            return order_for_error(spectrum.sigma, self.share)
        minimal = spectrum.sigma.shape[1] - spectrum.redundant
        return np.minimum(np.asarray(self.value, dtype=np.int64), minimal)


@dataclass(frozen=True)
class Seen:
    """What a layer meets when the model runs on calibration data.

    Attributes:
        inputs: (K, S, L, m) float64, K sequences of the inputs of every system.
        weight: (S, p, p) float64, symmetric and positive semi-definite: how much the model's output minds an error of
            the layer's output, E[J^T J] up to a factor; None where every output counts the same.
    """

    inputs: np.ndarray
    weight: np.ndarray | None = None


@dataclass(frozen=True)
class Options:
    """What some methods take beside a target.

    Attributes:
        score: of modal truncation, one of SCORES.
        horizon: steps that matter, >= 1.
        band: (low, high), frequencies that matter, in radians per step, 0 <= low < high <= pi.
        seen: calibration data.
        feedthrough: whether D of the result may differ from the original's.
    """

    score: str = "last"
    horizon: int | None = None
    band: tuple[float, float] | None = None
    seen: Seen | None = None
    feedthrough: bool = True


SCORES = ("last", "aire", "hinf", "h2")
DEFAULT = Options()


@dataclass(frozen=True)
class Result:
    """A reduced batch of systems.

    Attributes:
        system: the reduced systems, poles and residues, padded to the widest with C = 0.
        orders: (S,) int64, states of each reduced system.
        slots: (S,) int64, slots each system needs: one per complex pair, one per real pole.
        spectrum: Hankel singular values of the systems that were reduced.
        bound: (S,) a priori bound on the H-infinity error, NaN where the method gives none.
        diagonal_error: (S,) H-infinity error (estimated at sampled frequencies) of writing the reduced system with
            poles and residues, on top of the bound.
        remarks: what the user should know, one sentence each.
    """

    system: DiagonalSystem
    orders: np.ndarray
    slots: np.ndarray
    spectrum: Spectrum
    bound: np.ndarray
    diagonal_error: np.ndarray | float = 0.0
    remarks: tuple[str, ...] = ()
