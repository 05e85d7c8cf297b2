"""Bidirectional Mamba: Caduceus and LC-PLM.

A block has two mixers, mamba_fwd and mamba_rev, of Mamba-1 (Caduceus) or Mamba-2 (LC-PLM); the second reads the
sequence from its end, and what they give is added. With bidirectional_weight_tie, the default, the input and output
projections of the two are one tensor each, which may be in the file once or twice. Reverse-complement models put
`submodule.` in front: the same mixers then run on both strands, each half of the channels.

bidirectional_strategy "ew_multiply" multiplies instead of adding: such layers are found, but not as a sum of mixers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.errors import FamilyError
from ssmtool.families import _mamba1, _mamba1_tiny, _mamba2, _mamba2_tiny, _single
from ssmtool.families._contract import Layer
from ssmtool.families._directions import merged, part
from ssmtool.families._mamba2_facts import groups_and_states, step_limits
from ssmtool.families._mixers import architecture, refuse_quantised, settings, with_states
from ssmtool.families._names import groups, layer_names, option
from ssmtool.selective.mixers import Mixer

SUMMARY = "Bidirectional Mamba: Caduceus, LC-PLM; a forward and a backward mixer per block"
REFERENCE = (
    "Schiff et al., ICML 2024 (arXiv:2403.03234), github.com/kuleshov-group/caduceus; "
    "Wang et al. 2024 (arXiv:2411.08909), github.com/amazon-science/LC-PLM"
)
VARIANTS = ("mamba-1", "mamba-1-tied", "reverse-complement", "mamba-2", "mamba-2-tied")

FORWARD, BACKWARD = "mamba_fwd.", "mamba_rev."
SHARED = ("in_proj.weight", "in_proj.bias", "out_proj.weight", "out_proj.bias")


def layers(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any] | None) -> tuple[Layer, ...]:
    """Modules with a mamba_fwd. Raises FamilyError if inconsistent or quantised, or Mamba-2 without configuration."""
    if architecture(config) not in (None, "caduceus"):
        return ()
    suffixes = [way + role for way in (FORWARD, BACKWARD) for role in {**_mamba1.ROLES, **_mamba2.ROLES}]
    found = groups(tensors, FORWARD + "A_log", suffixes)
    names = layer_names(found)
    return tuple(_layer(names[p], p, f, tensors, config) for p, f in found.items())


def _layer(
    name: str, prefix: str, found: dict[str, str], tensors: Mapping[str, TensorInfo], config: Mapping[str, Any] | None
) -> Layer:
    refuse_quantised(prefix, found, tensors, config)
    facts = settings(config, "caduceus")
    ways = {way: {s.removeprefix(way): n for s, n in found.items() if s.startswith(way)} for way in (FORWARD, BACKWARD)}
    both = bool(ways[BACKWARD])
    tied = both and bool(option(facts, "bidirectional_weight_tie", default=True))
    if both:
        ways[BACKWARD] = {role: ways[FORWARD][role] for role in SHARED if role in ways[FORWARD]} | ways[BACKWARD]
    parts = [_part(name, prefix + way, mixer, tensors, config, facts) for way, mixer in ways.items() if mixer]
    if any((p.systems, p.slots, p.options) != (parts[0].systems, parts[0].slots, parts[0].options) for p in parts):
        shapes = ", ".join(f"{n} {tensors[n].shape}" for n in found.values())
        raise FamilyError(f"the two directions differ in size: {shapes}", where=name)
    strategy = option(facts, "bidirectional_strategy", default="add")
    notes = [] if strategy == "add" or not both else [f"The directions are combined by {strategy}, not added."]
    notes += ["The same mixers run on both strands, on half of the channels each."] if "submodule." in prefix else []
    stored = {s: n for s, n in found.items() if any(s.removeprefix(w) in p.tensors for w, p in _named(parts))}
    return replace(
        parts[0],
        tensors=stored,
        outputs=len(parts),
        variant=parts[0].options["kind"],
        options={
            **parts[0].options,
            "directions": len(parts),
            "tied": tied,
            "strategy": strategy,
            "exportable": strategy == "add" or not both,
        },
        note=" ".join(notes),
    )


def _named(parts: list[Layer]) -> list[tuple[str, Layer]]:
    return list(zip((FORWARD, BACKWARD), parts, strict=False))


def _part(
    name: str,
    prefix: str,
    found: dict[str, str],
    tensors: Mapping[str, TensorInfo],
    config: Mapping[str, Any] | None,
    facts: Mapping[str, Any],
) -> Layer:
    """One direction as a layer of its own."""
    if "A_log" not in found or len(tensors[found["A_log"]].shape) == 2:
        return _mamba1.layer("caduceus", "mamba-1", name, prefix, found, tensors)
    g, n = groups_and_states(
        facts if config else None,
        prefix,
        found,
        tensors,
        group_keys=("ngroups",),
        state_keys=("d_state",),
        groups=1,
        states=128,
    )
    low, high = step_limits(facts, "dt_limit")
    before = bool(option(facts, "norm_before_gate", default=False))
    known = _mamba2.Facts(g, n, norm_groups=g, norm_before_gate=before, dt_min=low, dt_max=high)
    return _mamba2.layer("caduceus", "mamba-2", name, prefix, found, tensors, known)


def _ways(layer: Layer) -> list[dict[str, str]]:
    """Role of a single mixer -> role of the layer, for each direction; shared tensors are the forward one's."""
    roles = _mamba1.ROLES if layer.options["kind"] == "mamba-1" else _mamba2.ROLES
    forward = {role: FORWARD + role for role in roles if FORWARD + role in layer.tensors}
    if layer.options["directions"] == 1:
        return [forward]
    backward = {role: BACKWARD + role for role in roles if BACKWARD + role in layer.tensors}
    return [forward, {role: forward[role] for role in SHARED if role in forward} | backward]


def _functions(layer: Layer) -> Any:
    return _mamba1 if layer.options["kind"] == "mamba-1" else _mamba2


def to_mixers(layer: Layer, arrays: Mapping[str, Any]) -> tuple[Mixer, ...]:
    """The forward mixer, and the one that reads backwards. Raises FamilyError if they are not added."""
    if layer.options["strategy"] != "add" and layer.options["directions"] == 2:
        raise FamilyError(
            f"the two directions are combined by {layer.options['strategy']}: they are not a sum of mixers",
            where=layer.name,
            remedy="The layer can be inspected only",
        )
    mixers = [_functions(layer).to_mixer(*part(layer, arrays, way)) for way in _ways(layer)]
    return tuple(replace(mixer, reverse=i == 1) for i, mixer in enumerate(mixers))


def from_mixers(
    layer: Layer, arrays: Mapping[str, np.ndarray], mixers: tuple[Mixer, ...]
) -> dict[str, np.ndarray | None]:
    """Both directions' tensors. Raises FamilyError if they want different numbers in one that they share."""
    ways = _ways(layer)
    done = [
        (way, _functions(layer).from_mixer(*part(layer, arrays, way), mixer))
        for way, mixer in zip(ways, mixers, strict=True)
    ]
    new = merged(layer, arrays, done)
    for role in SHARED if layer.options["tied"] else ():
        pair = [way + role for way in (FORWARD, BACKWARD)]
        if all(key in layer.tensors for key in pair):
            first, second = (new.get(key, arrays[key]) for key in pair)
            if not np.array_equal(first, second) and np.array_equal(arrays[pair[0]], arrays[pair[1]]):
                raise FamilyError(
                    f"{role} is one tensor for both directions, which would change it differently",
                    where=layer.name,
                    remedy="Keep the same states in both",
                )
    return {**new}


stack = _single.no_stack


def reduced_config(config: Mapping[str, Any] | None, layer: Layer, slots: int) -> dict[str, Any]:
    """d_state, in ssm_cfg."""
    return with_states(config, ("d_state",), slots, "ssm_cfg")


def tiny(variant: str, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """Two blocks; "-tied": the backward projections are not in the file."""
    rng, size = np.random.default_rng(seed), _mamba1_tiny
    second, complement = variant.startswith("mamba-2"), variant == "reverse-complement"
    trunk = "bimamba.backbone." if second else "caduceus.backbone."
    tensors = {trunk + "embeddings.word_embeddings.weight": size.normal(rng, 16, size.WIDTH)}
    for i in range(2):
        block = f"{trunk}layers.{i}.mixer." + ("submodule." if complement else "")
        for way in (FORWARD, BACKWARD):
            mixer = _mamba2_tiny.mixer(rng) if second else size.mixer(rng)
            if way == BACKWARD and variant != "mamba-2":
                mixer = {role: x for role, x in mixer.items() if role not in SHARED}
            tensors |= size.placed(block + way, mixer)
        if variant == "mamba-1":
            tensors |= {f"{block}{BACKWARD}{role}": tensors[f"{block}{FORWARD}{role}"].copy() for role in SHARED}
    config = {"model_type": "caduceus", "d_model": size.WIDTH, "n_layer": 2, "bidirectional_strategy": "add"}
    ssm: dict[str, Any] = {"d_state": size.STATES}
    if second:
        ssm |= {"ngroups": _mamba2_tiny.GROUPS, "headdim": _mamba2_tiny.HEAD}
    return tensors, config | {"ssm_cfg": ssm, "rcps": complement, "bidirectional_weight_tie": variant != "mamba-2"}


def forward(layer: Layer, arrays: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """(b, L, d) -> (b, L, d): the forward mixer on x, the backward one on x in reversed time, turned back and added."""
    y = np.zeros_like(x)
    for turn, way in zip((1, -1), _ways(layer), strict=False):
        y = y + _functions(layer).forward(*part(layer, arrays, way), x[:, ::turn])[:, ::turn]
    return y
