"""Families whose layers are one mixer each: the functions of the contract that only pass the mixer on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.families import _mamba1, _mamba2
from ssmtool.families._contract import Layer
from ssmtool.selective.mixers import DiagonalMixer, Mixer, ScalarMixer


def to_mixers1(layer: Layer, arrays: Mapping[str, Any]) -> tuple[DiagonalMixer]:
    """The layer's mixer, alone."""
    return (_mamba1.to_mixer(layer, arrays),)


def from_mixers1(
    layer: Layer, arrays: Mapping[str, np.ndarray], mixers: tuple[Mixer, ...]
) -> dict[str, np.ndarray | None]:
    """Rows of x_proj, columns of A_log, whatever else changed. Raises FamilyError for another kind of mixer."""
    (mixer,) = mixers
    return {**_mamba1.from_mixer(layer, arrays, mixer)}


def forward1(layer: Layer, arrays: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """(b, L, d) -> (b, L, d): the mixer alone, without the block's norm and residual."""
    return _mamba1.forward(layer, arrays, x)


def to_mixers2(layer: Layer, arrays: Mapping[str, Any]) -> tuple[ScalarMixer]:
    """The layer's mixer, alone."""
    return (_mamba2.to_mixer(layer, arrays),)


def from_mixers2(
    layer: Layer, arrays: Mapping[str, np.ndarray], mixers: tuple[Mixer, ...]
) -> dict[str, np.ndarray | None]:
    """Rows of in_proj and conv1d, whatever else changed. Raises FamilyError for another kind of mixer."""
    (mixer,) = mixers
    return {**_mamba2.from_mixer(layer, arrays, mixer)}


def forward2(layer: Layer, arrays: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """(b, L, d) -> (b, L, d): the mixer alone with its multipliers, without the block's norm and residual."""
    return _mamba2.forward(layer, arrays, x)


def no_stack(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any] | None, layers: tuple[Layer, ...]) -> None:
    """Other blocks take part."""
