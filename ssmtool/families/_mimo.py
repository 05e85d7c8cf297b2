"""What families with one multi-input multi-output system per layer (S5, LRU, HankelReg) share."""

from __future__ import annotations

import numpy as np

from ssmtool.errors import FamilyError
from ssmtool.families._arrays import array_namespace, diagonal, zeros
from ssmtool.families._contract import Layer
from ssmtool.lti.systems import DiagonalSystem, System


def diagonal_slots(layer: Layer, system: System) -> DiagonalSystem:
    """`system` itself. Raises FamilyError if it is not one diagonal system with at least one slot."""
    if not isinstance(system, DiagonalSystem) or system.systems != 1 or system.slots == 0:
        raise FamilyError("this family stores one diagonal system with at least one slot per layer", where=layer.name)
    return system


def stacked_feedthrough(d: np.ndarray, directions: int) -> np.ndarray:
    """(H,) stored diagonal -> (1, directions · H, H) float64; the rows of the backward direction have none."""
    rest = zeros(((directions - 1) * len(d), len(d)), d)
    return array_namespace(d).concat([diagonal(d), rest])[None]


def feedthrough_diagonal(layer: Layer, system: DiagonalSystem) -> np.ndarray:
    """(1, directions · H, H) -> (H,), what a layer that stores a diagonal D can keep.

    Both directions see the current input, so their feedthroughs add up.

    Raises:
        FamilyError: the feedthrough is not diagonal (residualisation makes it full).
    """
    full = system.D[0].reshape(-1, system.inputs, system.inputs).sum(axis=0)
    kept = np.diagonal(full).copy()
    if np.abs(full - np.diag(kept)).max() > 1e-9 * np.abs(full).max():
        raise FamilyError(
            "the reduced direct feedthrough is a full matrix, of which this layer can store only the diagonal",
            where=layer.name,
            remedy="Use a reduction that leaves D alone, such as balanced truncation.",
        )
    return kept


def conjugated(system: DiagonalSystem, flip: np.ndarray) -> DiagonalSystem:
    """The same input-output system with the other member of the pair stored in the slots `flip` (S, n) bool."""
    return DiagonalSystem(
        a=np.where(flip, system.a.conj(), system.a),
        B=np.where(flip[:, :, None], system.B.conj(), system.B),
        C=np.where(flip[:, None, :], system.C.conj(), system.C),
        D=system.D,
        real=system.real,
    )


def common_log_step(log_step: np.ndarray) -> float:
    """Logarithm of the geometric mean of the steps, as a float32 number: storing it then rounds nothing."""
    return float(np.float32(log_step.mean()))


def run(poles: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """x[k] = poles · x[k-1] + inputs[k] from x[-1] = 0, one step at a time; inputs and result (L, n)."""
    states, x = np.empty(inputs.shape, dtype=np.complex128), np.zeros(len(poles), dtype=np.complex128)
    for k, v in enumerate(inputs):
        x = poles * x + v
        states[k] = x
    return states
