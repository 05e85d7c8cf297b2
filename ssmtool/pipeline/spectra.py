"""Hankel singular values of one layer as a piece of work that can be sent and kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssmtool.cache import digest
from ssmtool.families._contract import Layer
from ssmtool.lti.devices import device_kind
from ssmtool.lti.spectrum import Spectrum
from ssmtool.pipeline.engines._contract import Arrays, Step
from ssmtool.pipeline.packing import packed, unpacked
from ssmtool.sources import version_of

if TYPE_CHECKING:
    from ssmtool.pipeline.model import Model

VERSION = 2
SOURCES = ("ssmtool.checkpoint", "ssmtool.families", "ssmtool.lti", "ssmtool_kernels")


@dataclass(frozen=True)
class HsvWork:
    """A `Work` whose result is a `Spectrum`.

    Attributes:
        device: of `device_name`.
    """

    device: str

    def key(self, content: str) -> str:
        return digest("hsv", VERSION, version_of(*SOURCES), content, device_kind(self.device))

    def compute(self, model: Model, layer: Layer, step: Step | None) -> Arrays:
        from ssmtool.lti.hankel import hankel_singular_values

        return packed(hankel_singular_values(model.system(layer), self.device, step))

    def result(self, layer: Layer, arrays: Arrays) -> Spectrum:
        found = unpacked(Spectrum, arrays)
        if found.sigma.shape != (layer.systems, layer.order) or found.redundant.shape != found.unstable.shape:
            raise ValueError("not of this layer")
        return found
