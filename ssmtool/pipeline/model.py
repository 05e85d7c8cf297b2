"""An opened checkpoint and the state-space layers found in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from ssmtool import plugins
from ssmtool.cache import Cache
from ssmtool.checkpoint import Checkpoint, TensorInfo, open_checkpoint
from ssmtool.errors import FamilyError, SsmtoolError, UsageError
from ssmtool.families._contract import Layer
from ssmtool.pipeline.content import content_of

if TYPE_CHECKING:
    from ssmtool.lti.spectrum import Spectrum
    from ssmtool.lti.systems import System
    from ssmtool.pipeline.engines._contract import Engine
    from ssmtool.selective.mixers import Mixer

FAMILIES = "ssmtool.families"
LayerProgress = Callable[[Layer, int, int], None]


@dataclass(frozen=True)
class LayerSpectrum:
    """A layer and the Hankel singular values of its systems."""

    layer: Layer
    spectrum: Spectrum


class Model:
    """A checkpoint whose state-space layers are known. Made by `load`; nothing but headers is read until needed.

    Attributes:
        checkpoint: the bytes.
        layers: every state-space layer found, in checkpoint order.
    """

    def __init__(self, checkpoint: Checkpoint, layers: tuple[Layer, ...]) -> None:
        self.checkpoint = checkpoint
        self.layers = layers

    def select(self, patterns: Iterable[str] | None = None) -> tuple[Layer, ...]:
        """Layers whose name equals or matches (as a shell glob) one of `patterns`; all for None. Raises UsageError."""
        return matching(self.layers, patterns)

    def arrays(self, layer: Layer) -> dict[str, np.ndarray]:
        """The layer's tensors by role, float64 / complex128 / int64, as stored. Raises CheckpointError."""
        return {role: self.checkpoint.read(name) for role, name in layer.tensors.items()}

    def content(self, layer: Layer) -> str:
        """Hash of the layer's tensors as stored and of its options, under which results about it are kept.

        Names do not count: the same layer in another checkpoint has the same hash. Raises CheckpointError.
        """
        return content_of(self.checkpoint, layer)

    def system(self, layer: Layer) -> System:
        """The layer as a batch of canonical systems. Raises CheckpointError, FamilyError."""
        return family_of(layer).to_system(layer, self.arrays(layer))

    def mixers(self, layer: Layer) -> tuple[Mixer, ...]:
        """A selective layer's mixers, float64; what they compute is added. Raises CheckpointError, FamilyError."""
        return family_of(layer).to_mixers(layer, self.arrays(layer))

    def hsv(
        self,
        layers: Iterable[str] | None = None,
        *,
        device: str = "auto",
        progress: LayerProgress | None = None,
        cache: Cache | None = None,
        jobs: int = 1,
        engine: Engine | None = None,
    ) -> tuple[LayerSpectrum, ...]:
        """Hankel singular values of every selected layer, one layer in memory at a time.

        Args:
            layers: names or globs; all by default. Input-dependent layers have no Hankel singular values and are
                an error when selected by name.
            device: "auto", "cpu" or "cuda".
            progress: called with (layer, systems done, systems).
            cache: where results are looked up and kept, e.g. Cache.default(); by default nothing is kept.
            jobs: processes that work on a layer each. The result does not depend on them.
            engine: where layers are worked on instead, see `ssmtool.pipeline.engines`.

        Raises:
            UsageError: no such layer, no such device.
            FamilyError: no linear time-invariant layer among those selected.
            CheckpointError: tensors that cannot be read or are not finite.
        """
        from ssmtool.pipeline.engines import local
        from ssmtool.pipeline.layerwise import layerwise
        from ssmtool.pipeline.spectra import HsvWork

        chosen, engine = linear(self.select(layers)), engine or local(jobs)
        work = HsvWork(engine.device(device))
        found = layerwise(self, chosen, lambda _: work, cache=cache or Cache(None), engine=engine, progress=progress)
        return tuple(LayerSpectrum(layer, spectrum) for layer, spectrum in zip(chosen, found, strict=True))


def matching(layers: tuple[Layer, ...], patterns: Iterable[str] | None) -> tuple[Layer, ...]:
    """Layers whose name equals or matches (as a shell glob) one of `patterns`; all for None. Raises UsageError."""
    wanted = list(patterns or ())
    if not wanted:
        return layers
    for pattern in wanted:
        if not any(fnmatchcase(layer.name, pattern) for layer in layers):
            raise UsageError(
                f"no layer matches {pattern!r}", remedy=f"Layers: {', '.join(layer.name for layer in layers)}"
            )
    return tuple(layer for layer in layers if any(fnmatchcase(layer.name, p) for p in wanted))


def linear(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """The linear time-invariant ones. Raises FamilyError if there are none."""
    found = tuple(layer for layer in layers if layer.lti)
    if not found:
        raise FamilyError(
            "the selected layers are input-dependent: they have no Hankel singular values of their own",
            where=", ".join(layer.name for layer in layers),
        )
    return found


def family_of(layer: Layer) -> ModuleType:
    """The family module of a layer."""
    return plugins.load(FAMILIES, layer.family)


def load(target: str | Path, *, family: str | None = None) -> Model:
    """Open a checkpoint and find its state-space layers.

    Args:
        target: .safetensors, .pt / .bin / .ckpt, a directory, or a model in the local Hugging Face cache.
        family: look for this family only; by default every family looks.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        FamilyError: no family knows these tensors, or two families claim the same layer.
        UsageError: there is no such family.
    """
    known = plugins.names(FAMILIES)
    if family is not None and family not in known:
        raise UsageError(f"there is no family {family!r}", remedy=f"Known families: {', '.join(known)}")
    checkpoint = open_checkpoint(target)
    layers = find_layers(checkpoint.tensors, checkpoint.config, (family,) if family else known)
    if not layers:
        raise _unknown(checkpoint, family, known)
    return Model(checkpoint, layers)


def find_layers(
    tensors: Mapping[str, TensorInfo], config: dict[str, Any] | None, families: Iterable[str]
) -> tuple[Layer, ...]:
    """Layers that the families find, in checkpoint order. Raises FamilyError if two claim the same tensor."""
    found: list[Layer] = []
    owner: dict[str, Layer] = {}
    for name in families:
        for layer in plugins.load(FAMILIES, name).layers(tensors, config):
            for tensor in layer.tensors.values():
                if tensor in owner:
                    raise FamilyError(
                        f"tensor {tensor} is claimed by {owner[tensor].family} and by {layer.family}",
                        where=layer.name,
                        remedy=f"Say which with --family {owner[tensor].family} or --family {layer.family}",
                    )
            owner.update(dict.fromkeys(layer.tensors.values(), layer))
            found.append(layer)
    position = {name: i for i, name in enumerate(tensors)}
    return tuple(sorted(found, key=lambda layer: min(position[t] for t in layer.tensors.values())))


def _unknown(checkpoint: Checkpoint, family: str | None, known: tuple[str, ...]) -> SsmtoolError:
    """What was seen and what is known, for a checkpoint without a known layer."""
    endings: dict[str, int] = {}
    for name in checkpoint.tensors:
        ending = ".".join(part for part in re.split(r"[./]", name)[-2:] if not part.isdigit())
        endings[ending] = endings.get(ending, 0) + 1
    common = sorted(endings, key=lambda e: (-endings[e], e))
    seen = ", ".join(common[:8]) + (f" and {len(common) - 8} more" if len(common) > 8 else "")
    looked = f"no layer of family {family}" if family else "no known state-space layer"
    return FamilyError(
        f"{looked} among {len(checkpoint.tensors)} tensors (names end in: {seen})",
        where=str(checkpoint.path),
        remedy=f"Known families: {', '.join(known)}. Force one with --family, or bring the model in the neutral format "
        "(docs/neutral-format.md)",
    )
