"""What `realize` made, and how it is recorded in the new checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssmtool.pipeline.numbers import NumberFile
from ssmtool.version import __version__

RECORD = "ssmtool_realize"
"""Key of the record in the checkpoint's metadata."""


@dataclass(frozen=True)
class LayerRealisation:
    """The systems that one array of impulse responses became. Errors are those of the tensors as stored.

    Attributes:
        name: of the layer.  axes: how the array was read, e.g. "SL".
        systems, outputs, inputs, length: S, p, m, L.
        batch: whether the layer is stored as a batch of systems.
        dtype: of its tensors.
        methods: per system.
        slots: stored modes per system.
        orders: (S,) states of each system.
        sigma: per system, the leading Hankel singular values of the response that were computed.
        hankel_norm: (S,) sigma_1.
        least: (S,) no system with as many states comes nearer in the H-infinity norm.
        bound: (S,) a priori bound on the H-infinity error of the model before rounding; NaN where there is none.
        hinf: (S,) measured H-infinity error, the response being 0 after its last lag.
        lags: (S,) root of the energy of the error over the L lags.
        beyond: (S,) root of the energy of what the model adds after the last lag.
        norm: (S,) root of the energy of the response.
        bytes: of the layer's tensors.
        remarks: what the user should know.
    """

    name: str
    axes: str
    systems: int
    outputs: int
    inputs: int
    length: int
    batch: bool
    dtype: str
    methods: tuple[str, ...]
    slots: int
    orders: np.ndarray
    sigma: tuple[np.ndarray, ...]
    hankel_norm: np.ndarray
    least: np.ndarray
    bound: np.ndarray
    hinf: np.ndarray
    lags: np.ndarray
    beyond: np.ndarray
    norm: np.ndarray
    bytes: int
    remarks: tuple[str, ...] = ()

    def relative(self, name: str) -> float:
        """The largest of an error over the systems: H-infinity ones over sigma_1, energies over that of the response.

        Args:
            name: least, bound, hinf, lags or beyond.
        """
        scale = self.norm if name in ("lags", "beyond") else self.hankel_norm
        error = getattr(self, name)
        ratio = np.divide(error, scale, out=np.where(error > 0, np.inf, 0.0), where=scale > 0)
        return float(ratio.max(initial=0.0))


@dataclass(frozen=True)
class Realised:
    """Result of `realize`.

    Attributes:
        source: the file of impulse responses.  output: the new checkpoint (None for a dry run).
        target: what was asked for, e.g. "rank 16".
        layers: one entry per array.
    """

    source: NumberFile
    output: Path | None
    target: str
    layers: tuple[LayerRealisation, ...]

    @property
    def bytes(self) -> int:
        """Of all tensors."""
        return sum(layer.bytes for layer in self.layers)


def record(done: Realised) -> dict[str, Any]:
    """What is written into the new checkpoint's metadata under RECORD."""
    return {
        "version": __version__,
        "target": done.target,
        "source_sha256": done.source.sha256,
        "layers": [
            {
                "name": layer.name,
                "axes": layer.axes,
                "length": layer.length,
                "methods": {name: layer.methods.count(name) for name in sorted(set(layer.methods))},
                "orders": [int(layer.orders.min()), int(layer.orders.max())],
                "hinf_error_relative": float(f"{layer.relative('hinf'):.6g}"),
                "lag_error_relative": float(f"{layer.relative('lags'):.6g}"),
            }
            for layer in done.layers
        ],
    }
