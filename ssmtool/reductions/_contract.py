"""What a reduction file provides. A reduction is a module; these are the types its functions speak.

A reduction module defines
    SUMMARY: str      one line for --help and the docs table
    REFERENCE: str    paper it comes from
    reduce(system, target, *, device, progress) -> Result

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
        value: a positive number, an integer for rank.
    """

    kind: Literal["rank", "energy", "error"]
    value: float

    def orders(self, spectrum: Spectrum) -> np.ndarray:
        """(S,) int64, states each system needs to meet the target by its Hankel singular values."""
        if self.kind == "energy":
            return order_for_energy(spectrum.sigma, self.value)
        if self.kind == "error":
            return order_for_error(spectrum.sigma, self.value)
        minimal = spectrum.sigma.shape[1] - spectrum.redundant
        return np.minimum(int(self.value), minimal)


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
