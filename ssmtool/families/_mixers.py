"""Selective mixers in a checkpoint: where they are, which architecture its configuration names, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ssmtool import plugins
from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.errors import FamilyError
from ssmtool.families._contract import Layer
from ssmtool.families._names import groups, option, resized

FLOATS = ("F64", "F32", "F16", "BF16")
# What quantisers put beside, or in place of, a weight (GPTQ, AWQ, bitsandbytes, compressed-tensors).
PACKED = (
    ".qweight",
    ".qzeros",
    ".scales",
    ".g_idx",
    ".absmax",
    ".quant_map",
    ".SCB",
    ".weight_scale",
    ".weight_packed",
)


def architecture(config: Mapping[str, Any] | None) -> str | None:
    """The family that model_type, at the top or one level down, names (underscores aside); None if there is none."""
    known = {_squashed(name): name for name in plugins.names("ssmtool.families")}
    named = [known[_squashed(kind)] for kind in model_types(config) if _squashed(kind) in known]
    return named[0] if named else None


def model_types(config: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Every model_type of the configuration, the top's first."""
    places = [config or {}, *(v for v in (config or {}).values() if isinstance(v, Mapping))]
    return tuple(kind for place in places if isinstance(kind := place.get("model_type"), str))


def _squashed(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


def settings(config: Mapping[str, Any] | None, family: str) -> dict[str, Any]:
    """The facts that concern the mixers as one flat dict.

    Those are the content of config.json, or of its part whose model_type names `family` (a language model inside a
    larger one), with mamba_ssm's ssm_cfg laid over it. Numbers JSON has no word for are decoded.
    """
    top = dict(config or {})
    inner = [
        v
        for v in top.values()
        if isinstance(v, Mapping) and _squashed(str(v.get("model_type", ""))) == _squashed(family)
    ]
    chosen = top if not inner or _squashed(str(top.get("model_type", ""))) == _squashed(family) else dict(inner[0])
    nested = chosen.get("ssm_cfg")
    chosen = chosen | (dict(nested) if isinstance(nested, Mapping) else {})
    return {key: _decoded(value) for key, value in chosen.items()}


def _decoded(value: Any) -> Any:
    """Hugging Face writes infinity as {"__float__": "Infinity"}."""
    if isinstance(value, Mapping) and set(value) == {"__float__"}:
        try:
            return float(value["__float__"])
        except (TypeError, ValueError, OverflowError):
            return value  # whoever asks for a number says where it is none
    if isinstance(value, list | tuple):
        return [_decoded(x) for x in value]
    return value


def mixers(
    tensors: Mapping[str, TensorInfo], spelling: Mapping[str, str], anchor: str = "A_log"
) -> dict[str, dict[str, str]]:
    """Modules with a tensor `anchor`: prefix -> {role: full tensor name}; spelling maps suffixes to roles."""
    found = groups(tensors, anchor, spelling)
    return {p: {spelling[s]: name for s, name in suffixes.items()} for p, suffixes in found.items()}


def refuse_quantised(
    prefix: str, found: Mapping[str, str], tensors: Mapping[str, TensorInfo], config: Mapping[str, Any] | None
) -> None:
    """Raises FamilyError naming the method if the mixer at `prefix` does not have its weights as plain numbers."""
    told = option(config, "quantization_config")
    method = told.get("quant_method", "of unnamed method") if isinstance(told, Mapping) else None
    extra = next((n for n in tensors if n.startswith(prefix) and n.endswith(PACKED)), None)
    packed = next((n for n in found.values() if tensors[n].dtype not in (*FLOATS, "C64", "C128")), None)
    if method is None and extra is None and packed is None:
        return
    if method is None:
        dtype = tensors[packed].dtype if packed else tensors[extra or ""].dtype
        method = f"{extra or packed} is {dtype}"
    raise FamilyError(
        f"the weights are quantised ({method}): they are codes, not the numbers the layer computes with",
        where=extra or packed or prefix.rstrip("./"),
        remedy="Take the checkpoint that was quantised, reduce that one, and quantise the result",
    )


def silu_only(facts: Mapping[str, Any], name: str, *keys: str) -> None:
    """Raises FamilyError if the configuration names, under one of `keys`, an activation other than SiLU."""
    act = option(facts, *keys, default="silu")
    if act not in ("silu", "swish"):
        raise FamilyError(f"activation {act!r} is not supported", where=name, remedy="The mixers known here use silu")


def changed(layer: Layer, arrays: Mapping[str, np.ndarray], new: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The roles whose arrays differ from the stored ones. Raises FamilyError for a role the layer has no tensor for."""
    lacking = [role for role, x in new.items() if x is not None and role not in layer.tensors]
    if lacking:
        raise FamilyError(f"the layer has no tensor for {', '.join(lacking)} of the new mixer", where=layer.name)
    return {r: x for r, x in new.items() if x is not None and not np.array_equal(x, arrays[r])}


def with_states(
    config: Mapping[str, Any] | None, keys: tuple[str, ...], states: int, where: str = ""
) -> dict[str, Any]:
    """A copy of the configuration with the number of states under the keys that have it, else under keys[0].

    where: the nested dict that takes the key where none has it (mamba_ssm's ssm_cfg), if the configuration has one.
    """
    config = config or {}
    if not config or isinstance(option(config, *keys), int):
        return resized(config, keys, states)
    if where in config:
        inner = config[where]
        return {**config, where: {**(inner if isinstance(inner, Mapping) else {}), keys[0]: states}}
    return {**config, keys[0]: states}
