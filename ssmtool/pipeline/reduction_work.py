"""The reduction of one layer as a piece of work that can be sent and kept."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ssmtool.cache import digest
from ssmtool.families._contract import Layer
from ssmtool.lti.devices import device_kind
from ssmtool.lti.spectrum import Spectrum
from ssmtool.lti.systems import DiagonalSystem
from ssmtool.pipeline.compression import LayerReduction
from ssmtool.pipeline.engines._contract import Arrays, Step
from ssmtool.pipeline.methods import How
from ssmtool.pipeline.reduce import reduce_layer
from ssmtool.reductions._contract import Result, Seen, Target
from ssmtool.sources import version_of

if TYPE_CHECKING:
    from ssmtool.pipeline.model import Model

VERSION = 1
SOURCES = (
    *("ssmtool.checkpoint", "ssmtool.families", "ssmtool.lti", "ssmtool_kernels"),
    *("ssmtool.reductions", "ssmtool.pipeline"),
)
_SYSTEM = ("a", "B", "C", "D")
_SPECTRUM = ("sigma", "redundant", "unstable")
_ROW = ("orders", "hankel_norm", "bound", "hinf", "h2", "h2_norm")
_RESULT = ("orders", "slots", "bound", "diagonal_error")
_FACTS = ("method", "slots", "bytes_before", "bytes_after", "remarks", "tried", "refined")


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
        facts = {name: getattr(row, name) for name in _FACTS}
        facts |= {"result remarks": result.remarks, "real": result.system.real}
        return {
            "facts": np.frombuffer(json.dumps(facts, default=int).encode(), np.uint8),
            **{f"row {name}": np.asarray(getattr(row, name)) for name in _ROW},
            **{f"result {name}": np.asarray(getattr(result, name)) for name in _RESULT},
            **{f"system {name}": getattr(result.system, name) for name in _SYSTEM},
            **{f"spectrum {name}": getattr(result.spectrum, name) for name in _SPECTRUM},
        }

    def result(self, layer: Layer, arrays: Arrays) -> tuple[LayerReduction, Result]:
        facts: dict[str, Any] = json.loads(arrays["facts"].tobytes())
        remarks, real = tuple(facts.pop("result remarks")), facts.pop("real")
        facts["remarks"] = tuple(facts["remarks"])
        facts["tried"] = tuple((method, error) for method, error in facts["tried"])
        facts |= {name: arrays[f"row {name}"] for name in _ROW}
        row = LayerReduction(layer=layer, **facts)
        system = DiagonalSystem(**{name: arrays[f"system {name}"] for name in _SYSTEM}, real=real)
        spectrum = Spectrum(**{name: arrays[f"spectrum {name}"] for name in _SPECTRUM})
        result = Result(
            system=system,
            spectrum=spectrum,
            remarks=remarks,
            **{name: arrays[f"result {name}"] for name in _RESULT},
        )
        if row.hinf.shape != (layer.systems,) or system.systems != layer.systems:
            raise ValueError("not of this layer")
        return row, result


def layout(model: Model) -> str:
    """Hash of the headers and the configuration of a checkpoint."""
    infos = {name: (info.dtype, info.shape) for name, info in model.checkpoint.tensors.items()}
    return digest("layout", VERSION, infos, model.checkpoint.config)
