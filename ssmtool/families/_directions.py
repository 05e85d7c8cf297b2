"""Mixers of two directions in one layer: tensors of each, and tensors that both have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ssmtool.errors import FamilyError
from ssmtool.families._contract import Layer

Spelling = Mapping[str, str]  # role of a single mixer -> role of the layer


def part(layer: Layer, arrays: Mapping[str, Any], spelling: Spelling) -> tuple[Layer, dict[str, Any]]:
    """One direction as a layer of its own, and its arrays under a single mixer's roles."""
    own = {role: key for role, key in spelling.items() if key in layer.tensors}
    names = {role: layer.tensors[key] for role, key in own.items()}
    return replace(layer, tensors=names), {role: arrays[key] for role, key in own.items() if key in arrays}


def merged(
    layer: Layer, arrays: Mapping[str, np.ndarray], parts: Iterable[tuple[Spelling, Mapping[str, np.ndarray]]]
) -> dict[str, np.ndarray]:
    """The layer's changed tensors from those of its directions.

    Raises:
        FamilyError: the directions want different numbers in a tensor they share.
    """
    parts = tuple(parts)
    new: dict[str, np.ndarray] = {}
    for key in layer.tensors:
        wanted = [
            changed.get(role, arrays[key]) for spelling, changed in parts for role, k in spelling.items() if k == key
        ]
        if any(not np.array_equal(x, wanted[0]) for x in wanted[1:]):
            raise FamilyError(
                f"the directions share {layer.tensors[key]} and would change it differently",
                where=layer.name,
                remedy="Keep the same states in both",
            )
        if wanted and wanted[0] is not arrays[key]:
            new[key] = wanted[0]
    return new
