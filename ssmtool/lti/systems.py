"""Canonical systems: what every checkpoint family is turned into, and every reduction works on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class DiagonalSystem:
    """A batch of S diagonal discrete-time systems in current-input form, one stored slot per mode:

        x_i[k] = exp(a_i) x_i[k-1] + B_i u[k],      y[k] = Re(C x[k]) + D u[k].

    A slot with complex exp(a_i) stands for the conjugate pair it makes with its mirror image, i.e. two states of
    the real input-output system. Families that return 2 Re(C x) hand over C already doubled.

    Families also make systems of PyTorch tensors, with gradients to the tensors they were made from; what trains on
    systems takes those, everything else takes NumPy arrays.

    Attributes:
        a: (S, n) complex128, logarithms of the eigenvalues; Im a is not folded (it may exceed pi).
        B: (S, n, m) complex128.
        C: (S, p, n) complex128.
        D: (S, p, m) float64.
        real: True if every slot is stored as one real state (real poles, B and C real): a slot then counts one
            state; False if a slot is stored as a complex state, which counts two.
    """

    a: NDArray[np.complexfloating]
    B: NDArray[np.complexfloating]
    C: NDArray[np.complexfloating]
    D: NDArray[np.floating]
    real: bool = False

    @property
    def systems(self) -> int:
        return self.a.shape[0]

    @property
    def slots(self) -> int:
        return self.a.shape[1]

    @property
    def inputs(self) -> int:
        return self.B.shape[2]

    @property
    def outputs(self) -> int:
        return self.C.shape[1]

    @property
    def order(self) -> int:
        """States of the real input-output system as stored, per system (redundant ones included)."""
        return self.slots if self.real else 2 * self.slots


@dataclass(frozen=True)
class DenseSystem:
    """A batch of S real dense systems x[k] = A x[k-1] + B u[k], y[k] = C x[k] + D u[k] (all float64).

    Attributes:
        A: (S, n, n).  B: (S, n, m).  C: (S, p, n).  D: (S, p, m).
    """

    A: NDArray[np.floating]
    B: NDArray[np.floating]
    C: NDArray[np.floating]
    D: NDArray[np.floating]

    @property
    def systems(self) -> int:
        return self.A.shape[0]

    @property
    def inputs(self) -> int:
        return self.B.shape[2]

    @property
    def outputs(self) -> int:
        return self.C.shape[1]

    @property
    def order(self) -> int:
        return self.A.shape[1]


System = DiagonalSystem | DenseSystem


def without_feedthrough(system: System) -> System:
    """The same systems with D = 0: what Hankel singular values and truncation errors are about."""
    return replace(system, D=np.zeros_like(system.D))
