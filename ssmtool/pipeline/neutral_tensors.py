"""Diagonal systems as the tensors of a new layer in the neutral format (docs/neutral-format.md)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ssmtool.lti.systems import DiagonalSystem


def side_by_side(systems: Sequence[DiagonalSystem]) -> DiagonalSystem:
    """Systems of different slot counts as one batch; the padding has B = C = 0 and a harmless pole."""
    slots = max([1, *(system.slots for system in systems)])

    def padded(system: DiagonalSystem) -> DiagonalSystem:
        extra = slots - system.slots
        return DiagonalSystem(
            np.pad(system.a, ((0, 0), (0, extra)), constant_values=-1.0),
            np.pad(system.B, ((0, 0), (0, extra), (0, 0))),
            np.pad(system.C, ((0, 0), (0, 0), (0, extra))),
            system.D,
        )

    wide = [padded(system) for system in systems]
    a, B, C, D = (np.concatenate([getattr(system, part) for system in wide]) for part in "aBCD")
    return DiagonalSystem(a, B, C, D)


def neutral_tensors(name: str, system: DiagonalSystem, dtype: str, batch: bool) -> dict[str, tuple[np.ndarray, str]]:
    """Tensor name -> (values, dtype) of a layer; complex values as pairs (re, im), D only where it is not 0.

    Args:
        name: of the layer, the prefix of its tensors.
        system: S systems; S = 1 unless `batch`.
        dtype: "F32" or "F64".
        batch: whether the tensors have the axis S.
    """
    parts = {"lambda_log": system.a, "B": system.B, "C": system.C}
    tensors = {leaf: np.stack([z.real, z.imag], axis=-1) for leaf, z in parts.items()}
    if system.D.any():
        tensors["D"] = system.D
    return {f"{name}.{leaf}": (x if batch else x[0], dtype) for leaf, x in tensors.items()}
