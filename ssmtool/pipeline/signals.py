"""Inputs that layers are driven with: generated, or from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ssmtool.checkpoint.arrays import read_array
from ssmtool.errors import CheckpointError, UsageError
from ssmtool.families._contract import Layer

LENGTH, SEED = 1024, 0  # of generated inputs, by default


def read_inputs(path: Path) -> tuple[str, np.ndarray]:
    """Name and content (sequences, L, channels) float64 of an input file. Raises CheckpointError."""
    remedy = "Give a .npy file of numbers"
    data = read_array(path, what="inputs", remedy=remedy)
    if data.dtype.kind not in "fiub":
        raise CheckpointError(f"holds {data.dtype}, not real numbers", where=str(path), remedy=remedy)
    data = np.asarray(data, dtype=np.float64)
    if data.ndim == 1:
        data = data[:, None]
    data = data[None] if data.ndim == 2 else data
    if data.ndim != 3 or 0 in data.shape or not np.isfinite(data).all():
        raise CheckpointError(
            f"inputs of shape {data.shape} are not finite numbers (sequences, steps, channels)", where=str(path)
        )
    return path.name, data


def fit_inputs(given: tuple[str, np.ndarray], layer: Layer) -> dict[str, np.ndarray]:
    """The given inputs as (S, L, m) per sequence. Raises UsageError."""
    name, data = given
    sequences, steps, channels = data.shape
    if channels == layer.systems * layer.inputs:
        shaped = data.reshape(sequences, steps, layer.systems, layer.inputs).transpose(0, 2, 1, 3)
    elif channels in (1, layer.inputs):
        shaped = np.broadcast_to(data[:, None], (sequences, layer.systems, steps, channels))
        shaped = np.broadcast_to(shaped, (*shaped.shape[:3], layer.inputs))
    else:
        raise UsageError(
            f"inputs have {channels} channels, but the layer takes {layer.systems * layer.inputs}",
            where=f"{name}, layer {layer.name}",
            remedy="Give 1 channel, one per input of a system, or one per channel of the layer",
        )
    return {name if sequences == 1 else f"{name}[{i}]": x for i, x in enumerate(shaped)}


def generated(layer: Layer, length: int, seed: int) -> dict[str, np.ndarray]:
    """White noise, impulse and step, (S, L, m) each."""
    shape = (layer.systems, length, layer.inputs)
    noise = np.random.default_rng(seed).standard_normal((1, length, layer.inputs))
    impulse = np.zeros((1, length, layer.inputs))
    impulse[:, 0] = 1.0
    signals = {"noise": noise, "impulse": impulse, "step": np.ones((1, length, layer.inputs))}
    return {name: np.broadcast_to(x, shape) for name, x in signals.items()}
