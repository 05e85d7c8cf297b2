"""The reduction of one layer as a piece of work that can be sent and kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssmtool.cache import digest
from ssmtool.families._contract import Layer
from ssmtool.lti.devices import device_kind
from ssmtool.pipeline.compression import LayerReduction
from ssmtool.pipeline.engines._contract import Arrays, Step
from ssmtool.pipeline.methods import How
from ssmtool.pipeline.packing import packed, prefixed, unpacked, without_prefix
from ssmtool.pipeline.reduce import reduce_layer
from ssmtool.reductions._contract import Result, Seen, Target
from ssmtool.sources import version_of

if TYPE_CHECKING:
    from ssmtool.pipeline.model import Model

VERSION = 2
SOURCES = (
    *("ssmtool.checkpoint", "ssmtool.families", "ssmtool.lti", "ssmtool_kernels"),
    *("ssmtool.reductions", "ssmtool.pipeline"),
)


@dataclass(frozen=True)
class ReductionWork:
    """A `Work` whose result is (LayerReduction, Result).

    Attributes:
        target, how, seen: as in `reduce_layer`.
        device: of `device_name`.
        layout: of the checkpoint, see `layout`: what a reduced layer is stored as depends on it.
    """

    target: Target
    how: How
    seen: Seen | None
    device: str
    layout: str

    def key(self, content: str) -> str:
        seen = None if self.seen is None else (self.seen.inputs, self.seen.weight)
        asked = (self.target.kind, self.target.value, vars(self.how), seen)
        return digest("reduction", VERSION, version_of(*SOURCES), content, self.layout, asked, device_kind(self.device))

    def compute(self, model: Model, layer: Layer, step: Step | None) -> Arrays:
        row, result = reduce_layer(
            model,
            layer,
            model.system(layer),
            self.target,
            self.how,
            seen=self.seen,
            device=self.device,
            progress=step,
        )
        return {**prefixed("row", packed(row, leaving=("layer",))), **prefixed("result", packed(result))}

    def result(self, layer: Layer, arrays: Arrays) -> tuple[LayerReduction, Result]:
        row = unpacked(LayerReduction, without_prefix("row", arrays), layer=layer)
        result = unpacked(Result, without_prefix("result", arrays))
        if row.hinf.shape != (layer.systems,) or result.system.systems != layer.systems:
            raise ValueError("not of this layer")
        return row, result


def layout(model: Model) -> str:
    """Hash of the headers and the configuration of a checkpoint."""
    infos = {name: (info.dtype, info.shape) for name, info in model.checkpoint.tensors.items()}
    return digest("layout", VERSION, infos, model.checkpoint.config)
