"""Layers of a checkpoint cut to given ranks, made once per rank, and the bytes they take as stored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ssmtool.families._contract import Layer
from ssmtool.lti.systems import DiagonalSystem, System
from ssmtool.pipeline.methods import BEST, How
from ssmtool.pipeline.model import Model
from ssmtool.pipeline.reduce import tried_out
from ssmtool.pipeline.storage import Tensors, layer_bytes, store, stored_widths
from ssmtool.pipeline.workbench import Workbench


class Cuts:
    """Reduced layers by rank.

    Args:
        model: the checkpoint.
        layers: those whose states are shared out.
        how: the reduction that will be used.
        bench: for calibrated methods; None without inputs.
        per_layer, pad_to: how widths are stored, see `stored_widths`.
        device: where reductions are computed.
    """

    def __init__(
        self,
        model: Model,
        layers: Sequence[Layer],
        how: How,
        bench: Workbench | None,
        *,
        per_layer: bool,
        pad_to: int | None,
        device: str,
    ) -> None:
        self.model, self.layers, self.how, self.device = model, tuple(layers), how, device
        self.per_layer, self._pad_to = per_layer, pad_to
        self.systems: dict[str, System] = {layer.name: model.system(layer) for layer in layers}
        seeing = None if how.method in ("subset", BEST) else bench
        self._seen = {layer.name: None if seeing is None else seeing.seen(layer, how) for layer in layers}
        self._made: dict[tuple[str, bytes], tuple[DiagonalSystem, int]] = {}

    def reduced(self, layer: Layer, ranks: np.ndarray) -> tuple[DiagonalSystem, int]:
        """The layer with these ranks (S,), and the slots it needs. Raises ReductionError."""
        key = (layer.name, np.asarray(ranks, dtype=np.int64).tobytes())
        if key not in self._made:
            system, seen = self.systems[layer.name], self._seen[layer.name]
            self._made[key] = tried_out(layer, system, ranks, self.how, seen=seen, device=self.device)
        return self._made[key]

    def tensors(self, layer: Layer, ranks: np.ndarray, width: int | None = None) -> Tensors:
        """What would be stored, as wide as the layer needs by default."""
        system, own = self.reduced(layer, ranks)
        return store(self.model, layer, system, width or own)

    def bytes_after(self, ranks: Sequence[np.ndarray]) -> int:
        """Tensor bytes of the whole checkpoint with these ranks, as it would be stored."""
        slots = [self.reduced(layer, r)[1] for layer, r in zip(self.layers, ranks, strict=True)]
        change = 0
        widths = stored_widths(self.layers, slots, per_layer=self.per_layer, pad_to=self._pad_to)
        for layer, r, width in zip(self.layers, ranks, widths, strict=True):
            if width < layer.slots or layer.constraints.export:  # others are left as they are
                before, after = layer_bytes(self.model, layer, self.tensors(layer, r, width))
                change += after - before
        return self.model.checkpoint.data_bytes + change
