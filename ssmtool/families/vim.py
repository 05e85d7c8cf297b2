"""Vim (Vision Mamba): Mamba-1 mixers that scan in both directions before one output projection.

v1 has A_b_log alone: the convolved input, dt, B, C and D are computed once, and only the scan runs backwards, with
A_b = -exp(A_b_log). v2 has a second set conv1d_b, x_proj_b, dt_proj_b, D_b for the reversed sequence. Input and output
projections serve both. v2 halves the sum of the two with if_divide_out, an argument of the constructor that no tensor
tells: without it in the configuration a layer can be inspected only. gamma (d,), a layer scale, multiplies the output.

Images are not token sequences: what stands before and after the mixers (patches, a class token in the middle) passes
through.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.errors import FamilyError
from ssmtool.families import _mamba1, _single
from ssmtool.families import _mamba1_tiny as size
from ssmtool.families._contract import Layer
from ssmtool.families._directions import merged, part
from ssmtool.families._mixers import architecture, mixers, refuse_quantised, settings, with_states
from ssmtool.families._names import complete, layer_names, option
from ssmtool.families._recurrence import causal_convolution, diagonal_scan, silu, softplus
from ssmtool.selective.mixers import DiagonalMixer, Mixer

SUMMARY = "Vim (Vision Mamba): two directions per layer, v1 and v2"
REFERENCE = "Zhu et al., ICML 2024 (arXiv:2401.09417); github.com/hustvl/Vim"
VARIANTS = ("v1", "v2", "v2-divided")

OWN = {
    "A_log": "A_b_log",
    "conv1d.weight": "conv1d_b.weight",
    "conv1d.bias": "conv1d_b.bias",
    "x_proj.weight": "x_proj_b.weight",
    "dt_proj.weight": "dt_proj_b.weight",
    "dt_proj.bias": "dt_proj_b.bias",
    "D": "D_b",
}
ROLES = _mamba1.ROLES | {role: role for role in (*OWN.values(), "gamma")}
SECOND = ("conv1d_b.weight", "x_proj_b.weight", "dt_proj_b.weight", "dt_proj_b.bias", "D_b")


def layers(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any] | None) -> tuple[Layer, ...]:
    """Modules with A_b_log. Raises FamilyError if inconsistent or quantised."""
    if architecture(config) not in (None, "vim"):
        return ()
    found = mixers(tensors, ROLES, "A_b_log")
    names = layer_names(found)
    return tuple(_layer(names[p], p, f, tensors, config) for p, f in found.items())


def _layer(
    name: str, prefix: str, found: dict[str, str], tensors: Mapping[str, TensorInfo], config: Mapping[str, Any] | None
) -> Layer:
    refuse_quantised(prefix, found, tensors, config)
    complete(prefix, found, _mamba1.NEEDED)
    second = any(role in found for role in SECOND)
    if second:
        complete(prefix, found, SECOND)
    backward = {role: found[key] for role, key in _way(found, second).items() if key in found}
    forward = {role: found[role] for role in _mamba1.ROLES if role in found}
    first = _mamba1.layer("vim", "v2" if second else "v1", name, prefix, forward, tensors)
    other = _mamba1.layer("vim", first.variant, name, prefix, backward, tensors)
    width = tensors[found["out_proj.weight"]].shape[0]
    wrong = [n for n in found.values() if n == found.get("gamma") and tensors[n].shape != (width,)]
    if wrong or (first.systems, first.slots, first.options) != (other.systems, other.slots, other.options):
        shapes = ", ".join(f"{n} {tensors[n].shape}" for n in found.values())
        raise FamilyError(f"the two directions differ in size, or gamma is not ({width},): {shapes}", where=name)
    divide = option(settings(config, "vim"), "if_divide_out") if second else False
    note = "The configuration does not say whether the sum of the directions is halved (if_divide_out)."
    roles = (*_mamba1.ROLES, *(OWN.values() if second else ("A_b_log",)), "gamma")
    return replace(
        first,
        tensors={role: found[role] for role in roles if role in found},
        outputs=2,
        options={
            **first.options,
            "directions": 2,
            "divide_out": None if divide is None else bool(divide),
            "exportable": second,
        },
        note=note if divide is None else "",
    )


def _way(found: Mapping[str, str], second: bool) -> dict[str, str]:
    """Role of a single mixer -> role of the backward direction."""
    own = OWN if second else {"A_log": "A_b_log"}
    if second and "conv1d_b.bias" not in found:
        own = {role: key for role, key in own.items() if role != "conv1d.bias"}
        return {role: own.get(role, role) for role in _mamba1.ROLES if role != "conv1d.bias"}
    return {role: own.get(role, role) for role in _mamba1.ROLES}


def _ways(layer: Layer) -> tuple[dict[str, str], dict[str, str]]:
    backward = _way(layer.tensors, layer.variant == "v2")
    return (
        {role: role for role in _mamba1.ROLES if role in layer.tensors},
        {role: key for role, key in backward.items() if key in layer.tensors},
    )


def _factor(layer: Layer) -> float:
    """1/2 or 1. Raises FamilyError if nothing tells."""
    if layer.options["divide_out"] is None:
        raise FamilyError(
            "whether the sum of the two directions is halved is not in the tensors, and the configuration has no "
            "if_divide_out",
            where=layer.name,
            remedy='Put "if_divide_out": true (all models of the Vim repository) or false into config.json',
        )
    return 0.5 if layer.options["divide_out"] else 1.0


def to_mixers(layer: Layer, arrays: Mapping[str, Any]) -> tuple[DiagonalMixer, DiagonalMixer]:
    """The forward mixer, and the backward one, which brings no bias of its own. Raises FamilyError: see `_factor`."""
    factor, gamma = _factor(layer), arrays.get("gamma")
    first, second = (_mamba1.to_mixer(*part(layer, arrays, way)) for way in _ways(layer))
    out = first.out if gamma is None else first.out * gamma[:, None]
    bias = first.out_bias if first.out_bias is None or gamma is None else first.out_bias * gamma
    out = out if factor == 1 else out * factor
    return (
        replace(first, out=out, out_bias=bias),
        replace(second, out=out, out_bias=None, reverse=True, forward_conv=layer.variant == "v1"),
    )


def from_mixers(
    layer: Layer, arrays: Mapping[str, np.ndarray], mixers: tuple[Mixer, ...]
) -> dict[str, np.ndarray | None]:
    """Both directions' tensors.

    Raises:
        FamilyError: another kind of mixer, other output projections (they serve both directions), or different
            numbers in tensors the directions share.
    """
    done = []
    for way, mixer, old in zip(_ways(layer), mixers, to_mixers(layer, arrays), strict=True):
        same = isinstance(mixer, DiagonalMixer) and np.array_equal(mixer.out, old.out)
        if not same or (mixer.out_bias is not None and not np.array_equal(mixer.out_bias, old.out_bias)):
            raise FamilyError("the output projection serves both directions and cannot change", where=layer.name)
        own, stored = part(layer, arrays, way)
        plain = replace(mixer, out=stored["out_proj.weight"], out_bias=stored.get("out_proj.bias"))
        done.append((way, _mamba1.from_mixer(own, stored, plain)))
    return {**merged(layer, arrays, done)}


stack = _single.no_stack


def reduced_config(config: Mapping[str, Any] | None, layer: Layer, slots: int) -> dict[str, Any]:
    """d_state."""
    return with_states(config, ("d_state",), slots)


def tiny(variant: str, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """Two blocks; v1 with a layer scale."""
    rng = np.random.default_rng(seed)
    tensors = {"patch_embed.proj.weight": size.normal(rng, size.WIDTH, 3, 2, 2)}
    for i in range(2):
        block, other = f"layers.{i}.mixer.", size.mixer(rng)
        tensors |= size.placed(block, size.mixer(rng))
        backward = {key: other[role] for role, key in OWN.items()}
        if variant == "v1":
            backward = {"A_b_log": backward["A_b_log"], "gamma": size.weights(rng, size.WIDTH)}
        tensors |= size.placed(block, backward)
        tensors[f"layers.{i}.norm.weight"] = size.weights(rng, size.WIDTH)
    tensors["head.weight"] = size.normal(rng, 4, size.WIDTH)
    config = {"embed_dim": size.WIDTH, "depth": 2, "d_state": size.STATES, "bimamba_type": variant[:2]}
    return tensors, config | {"if_divide_out": variant == "v2-divided"}


def forward(layer: Layer, arrays: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """(b, L, d) -> (b, L, d) by the two formulas of the original, one per version."""
    inner, states = arrays["A_log"].shape
    both = x @ arrays["in_proj.weight"].T + arrays.get("in_proj.bias", 0.0)
    turned = both[:, ::-1]
    if layer.variant == "v2":
        ahead = _branch(layer, arrays, both[..., :inner], both[..., inner:])
        own = {role: arrays[key] for role, key in _ways(layer)[1].items()}
        y = ahead + _branch(layer, own, turned[..., :inner], turned[..., inner:])[:, ::-1]
        y = y / 2 if layer.options["divide_out"] else y
    else:
        u = silu(causal_convolution(both[..., :inner], arrays["conv1d.weight"], arrays.get("conv1d.bias")))
        rank = layer.options["rank"]
        low, b, c = np.split(u @ arrays["x_proj.weight"].T, [rank, rank + states], axis=-1)
        dt = softplus(low @ arrays["dt_proj.weight"].T + arrays["dt_proj.bias"])
        y = diagonal_scan(u, dt, -np.exp(arrays["A_log"]), b, c, arrays["D"]) * silu(both[..., inner:])
        u, dt, b, c = (part[:, ::-1] for part in (u, dt, b, c))
        back = diagonal_scan(u, dt, -np.exp(arrays["A_b_log"]), b, c, arrays["D"]) * silu(turned[..., inner:])
        y = y + back[:, ::-1]
    return (y @ arrays["out_proj.weight"].T + arrays.get("out_proj.bias", 0.0)) * arrays.get("gamma", 1.0)


def _branch(layer: Layer, arrays: Mapping[str, np.ndarray], u: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Convolution, projections, scan and gate of one direction of v2."""
    u = silu(causal_convolution(u, arrays["conv1d.weight"], arrays.get("conv1d.bias")))
    return _mamba1.gated_scan(layer, arrays, u, z, layer.slots)
