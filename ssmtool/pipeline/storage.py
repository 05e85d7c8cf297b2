"""A reduced layer as the tensors it is stored in, and as they will be read again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType

import numpy as np

from ssmtool.checkpoint import TensorInfo, round_to
from ssmtool.checkpoint.dtypes import BITS
from ssmtool.families._contract import Layer
from ssmtool.lti.systems import DiagonalSystem, System
from ssmtool.pipeline.model import Model, family_of, find_layers

_ROUNDING = {"BF16": 1 / 256, "F16": 1 / 2048, "F32": 2.0**-24, "F64": 2.0**-53, "C64": 2.0**-24, "C128": 2.0**-53}

Tensors = dict[str, tuple[np.ndarray | None, str]]  # name -> values (None for "drop") and dtype


def store(model: Model, layer: Layer, system: DiagonalSystem, width: int) -> Tensors:
    """Tensors of the reduced layer, name -> (values or None for "drop", dtype)."""
    family: ModuleType = family_of(layer)
    arrays = model.arrays(layer)
    fallback = coarsest_dtype(model, layer)
    out = {}
    for name, array in family.from_system(layer, arrays, _widened(system, width)).items():
        full = layer.tensors.get(name, name)
        known = model.checkpoint.tensors.get(full)
        out[full] = (array, known.dtype if known else fallback)
    return out


def stored_layer(model: Model, layer: Layer, tensors: Tensors) -> Layer:
    """The layer as it is found in what would be stored."""
    infos = dict(model.checkpoint.tensors)
    for name, (array, dtype) in tensors.items():
        if array is None:
            infos.pop(name, None)
        else:
            infos[name] = TensorInfo(tuple(array.shape), dtype)
    return {found.name: found for found in find_layers(infos, model.checkpoint.config, (layer.family,))}[layer.name]


def stored_widths(layers: Sequence[Layer], slots: Sequence[int], *, per_layer: bool, pad_to: int | None) -> list[int]:
    """Slots each layer is stored with.

    Args:
        layers: reduced layers.
        slots: what each of them needs.
        per_layer: its own width for each; else the largest of its family, so that one number of the model changes.
        pad_to: a multiple of so many.
    """
    multiple = pad_to or 1
    own = [-(-width // multiple) * multiple for width in slots]
    if per_layer:
        return own
    key = [(layer.family, layer.variant) for layer in layers]
    largest = {k: max(w for w, other in zip(own, key, strict=True) if other == k) for k in key}
    return [largest[k] for k in key]


def reread(model: Model, layer: Layer, tensors: Tensors) -> System:
    """The layer found and interpreted again from what would be stored."""
    again = stored_layer(model, layer, tensors)
    arrays = {}
    for role, name in again.tensors.items():
        array, dtype = tensors.get(name, (None, ""))
        arrays[role] = model.checkpoint.read(name) if array is None else round_to(array, dtype)
    return family_of(again).to_system(again, arrays)


def _widened(system: DiagonalSystem, width: int) -> DiagonalSystem:
    """The same systems with exactly `width` slots; extra ones have B = C = 0."""
    a, B, C = system.a[:, :width], system.B[:, :width], system.C[:, :, :width]
    extra = width - a.shape[1]
    if extra > 0:
        a = np.pad(a, ((0, 0), (0, extra)), constant_values=-1.0)
        B, C = np.pad(B, ((0, 0), (0, extra), (0, 0))), np.pad(C, ((0, 0), (0, 0), (0, extra)))
    return replace(system, a=a, B=B, C=C)


def coarsest_dtype(model: Model, layer: Layer) -> str:
    """The coarsest floating dtype among the layer's tensors."""
    dtypes = {model.checkpoint.tensors[name].dtype for name in layer.tensors.values()} & set(_ROUNDING)
    return max(dtypes, key=lambda d: (_ROUNDING[d], d.startswith("F"))) if dtypes else "F32"


def storage_rounding(model: Model, layer: Layer) -> float:
    """Share of a pole's logarithm, or of a weight, that storing the layer may change it by.

    A pole is often the product of a stored number and a step that is stored as its logarithm: 16 units in the last
    place are enough for steps down to exp(-15).
    """
    return 16 * _ROUNDING[coarsest_dtype(model, layer)]


def layer_bytes(model: Model, layer: Layer, tensors: Tensors) -> tuple[int, int]:
    """Bytes of the layer's state-space tensors before and after the rewrite.

    Tensors that are rewritten without being read (copies that some layouts keep) belong to them.
    """
    stored = model.checkpoint.tensors
    before = {name: stored[name] for name in {*layer.tensors.values(), *tensors} if name in stored}
    after = {name: info for name, info in before.items() if name not in tensors}
    after |= {name: TensorInfo(tuple(x.shape), dtype) for name, (x, dtype) in tensors.items() if x is not None}
    return sum(map(tensor_bytes, before.values())), sum(map(tensor_bytes, after.values()))


def tensor_bytes(info: TensorInfo) -> int:
    return info.size * BITS[info.dtype] // 8
