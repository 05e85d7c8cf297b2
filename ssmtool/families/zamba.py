"""Zamba (version 1): Mamba-1 layers with heads, each with projections of its own, in a hybrid with shared attention.

    in_proj.weight (2E, d)            rows interleaved: x of channel 0, z of channel 0, x of channel 1, ...
    x_proj_weight (G, R + 2N, E/G)    rows dt, B, C of each head, from that head's channels alone
    dt_proj_weight (G, E/G, R), dt_proj_bias (G, E/G), A_log (G, E/G, N), D (G, E/G)
    conv1d over all E channels, out_proj

Everything is in the tensors; only the activation comes from the configuration (hidden_mamba_act). The shared attention
blocks and the linear maps beside the mixers pass through.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.errors import FamilyError
from ssmtool.families import _mamba1_tiny as size
from ssmtool.families import _single
from ssmtool.families._contract import Layer
from ssmtool.families._mixers import (
    architecture,
    changed,
    mixers,
    refuse_quantised,
    settings,
    silu_only,
    with_states,
)
from ssmtool.families._names import complete, dimensions, layer_names
from ssmtool.families._recurrence import causal_convolution, diagonal_scan, silu, softplus
from ssmtool.selective.mixers import DiagonalMixer, Mixer

SUMMARY = "Zamba v1 (Hugging Face): Mamba layers with heads, of a hybrid with attention"
REFERENCE = "Glorioso et al. 2024 (arXiv:2405.16712); transformers ZambaForCausalLM"
VARIANTS = ("huggingface",)

NEEDED = (
    "in_proj.weight",
    "conv1d.weight",
    "x_proj_weight",
    "dt_proj_weight",
    "dt_proj_bias",
    "A_log",
    "D",
    "out_proj.weight",
)
OPTIONAL = ("in_proj.bias", "conv1d.bias", "out_proj.bias")
ROLES = {role: role for role in (*NEEDED, *OPTIONAL)}


def layers(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any] | None) -> tuple[Layer, ...]:
    """Modules with A_log and x_proj_weight of three axes. Raises FamilyError if inconsistent or quantised."""
    if architecture(config) not in (None, "zamba"):
        return ()
    found = {p: f for p, f in mixers(tensors, ROLES).items() if _is_ours(f, tensors)}
    names = layer_names(found)
    return tuple(_layer(names[p], p, f, tensors, config) for p, f in found.items())


def _is_ours(found: Mapping[str, str], tensors: Mapping[str, TensorInfo]) -> bool:
    return "x_proj_weight" in found and len(tensors[found["A_log"]].shape) == 3


def _layer(
    name: str, prefix: str, found: dict[str, str], tensors: Mapping[str, TensorInfo], config: Mapping[str, Any] | None
) -> Layer:
    refuse_quantised(prefix, found, tensors, config)
    silu_only(settings(config, "zamba"), name, "hidden_mamba_act")
    complete(prefix, found, NEEDED)
    heads, width, states = tensors[found["A_log"]].shape
    rank = max((*tensors[found["x_proj_weight"]].shape[1:2], 0)[0] - 2 * states, 0)
    inner = heads * width
    layout = {
        "A_log": "G P N",
        "in_proj.weight": f"{2 * inner} d",
        "in_proj.bias": f"{2 * inner}",
        "conv1d.weight": f"{inner} 1 K",
        "conv1d.bias": f"{inner}",
        "x_proj_weight": f"G {rank + 2 * states} P",
        "dt_proj_weight": f"G P {rank}",
        "dt_proj_bias": "G P",
        "D": "G P",
        "out_proj.weight": f"d {inner}",
        "out_proj.bias": "d",
    }
    sizes = dimensions(tensors, found, layout)
    return Layer(
        name=name,
        family="zamba",
        variant="huggingface",
        tensors={role: found[role] for role in (*NEEDED, *OPTIONAL) if role in found},
        systems=inner,
        inputs=1,
        outputs=1,
        slots=states,
        order=states,
        lti=False,
        options={"kind": "mamba-1", "groups": heads, "rank": rank, "taps": sizes["K"], "norms": "none"}
        | {"norm_eps": 0.0, "exportable": True},
    )


def to_mixers(layer: Layer, arrays: Mapping[str, Any]) -> tuple[DiagonalMixer]:
    """The mixer, alone; its groups are the heads."""
    rank, rows, bias = layer.options["rank"], arrays["x_proj_weight"], arrays.get("in_proj.bias")
    return (
        DiagonalMixer(
            x_dt=rows[:, :rank],
            x_b=rows[:, rank : rank + layer.slots],
            x_c=rows[:, rank + layer.slots :],
            dt_weight=arrays["dt_proj_weight"],
            dt_bias=arrays["dt_proj_bias"].reshape(-1),
            a_log=arrays["A_log"].reshape(layer.systems, -1),
            d_skip=arrays["D"].reshape(-1),
            in_x=arrays["in_proj.weight"][0::2],
            in_z=arrays["in_proj.weight"][1::2],
            in_x_bias=None if bias is None else bias[0::2],
            in_z_bias=None if bias is None else bias[1::2],
            conv=arrays["conv1d.weight"][:, 0],
            conv_bias=arrays.get("conv1d.bias"),
            out=arrays["out_proj.weight"],
            out_bias=arrays.get("out_proj.bias"),
        ),
    )


def from_mixers(
    layer: Layer, arrays: Mapping[str, np.ndarray], mixers: tuple[Mixer, ...]
) -> dict[str, np.ndarray | None]:
    """Rows of x_proj_weight, columns of A_log, whatever else changed. Raises FamilyError for another kind of mixer."""
    (mixer,) = mixers
    if not isinstance(mixer, DiagonalMixer) or mixer.groups != layer.options["groups"] or mixer.b_norm is not None:
        raise FamilyError("only a Mamba-1 mixer with the layer's heads and without norms fits", where=layer.name)
    heads = mixer.groups
    new: dict[str, Any] = {
        "in_proj.weight": _interleaved(mixer.in_x, mixer.in_z),
        "in_proj.bias": None if mixer.in_x_bias is None else _interleaved(mixer.in_x_bias, mixer.in_z_bias),
        "conv1d.weight": mixer.conv[:, None],
        "conv1d.bias": mixer.conv_bias,
        "x_proj_weight": np.concatenate([mixer.x_dt, mixer.x_b, mixer.x_c], axis=1),
        "dt_proj_weight": mixer.dt_weight,
        "dt_proj_bias": mixer.dt_bias.reshape(heads, -1),
        "A_log": mixer.a_log.reshape(heads, -1, mixer.states),
        "D": mixer.d_skip.reshape(heads, -1),
        "out_proj.weight": mixer.out,
        "out_proj.bias": mixer.out_bias,
    }
    return {**changed(layer, arrays, new)}


def _interleaved(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    return np.stack([x, z], axis=1).reshape(2 * len(x), *x.shape[1:])


stack = _single.no_stack


def reduced_config(config: Mapping[str, Any] | None, layer: Layer, slots: int) -> dict[str, Any]:
    """mamba_d_state."""
    return with_states(config, ("mamba_d_state",), slots)


def tiny(variant: str, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """A plain Mamba block and a hybrid one, two heads each."""
    rng, d, heads = np.random.default_rng(seed), size.WIDTH, 2
    width = size.INNER // heads
    tensors = {"model.embed_tokens.weight": size.normal(rng, 16, d)}
    for place in ("model.layers.0.mamba.", "model.layers.1.mamba_decoder.mamba."):
        tensors |= size.placed(
            place,
            {
                "in_proj.weight": size.normal(rng, 2 * size.INNER, d),
                "in_proj.bias": size.normal(rng, 2 * size.INNER),
                "conv1d.weight": size.normal(rng, size.INNER, 1, size.TAPS),
                "conv1d.bias": size.normal(rng, size.INNER),
                "x_proj_weight": size.normal(rng, heads, size.RANK + 2 * size.STATES, width),
                "dt_proj_weight": size.normal(rng, heads, width, size.RANK),
                "dt_proj_bias": size.normal(rng, heads, width, scale=1.0) - 1,
                "A_log": np.log(rng.uniform(0.2, 4.0, (heads, width, size.STATES))).astype(np.float32),
                "D": size.normal(rng, heads, width, scale=1.0),
                "out_proj.weight": size.normal(rng, d, size.INNER),
                "out_proj.bias": size.normal(rng, d),
            },
        )
    tensors |= {
        "model.layers.1.linear.weight": size.normal(rng, d, d),
        "model.final_layernorm.weight": np.ones(d, "f4"),
    }
    tensors["model.layers.1.shared_transf.self_attn.q_proj.weight"] = size.normal(rng, d, 2 * d)
    return tensors, {"model_type": "zamba", "hidden_size": d, "mamba_d_state": size.STATES, "n_mamba_heads": heads}


def forward(layer: Layer, arrays: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """(b, L, d) -> (b, L, d): head by head, outputs side by side."""
    heads, width, states = arrays["A_log"].shape
    both = x @ arrays["in_proj.weight"].T + arrays.get("in_proj.bias", 0.0)
    pairs = both.reshape(*x.shape[:2], -1, 2)
    u = silu(causal_convolution(pairs[..., 0], arrays["conv1d.weight"], arrays.get("conv1d.bias")))
    outputs = []
    for head in range(heads):
        own = u[..., head * width : (head + 1) * width]
        projected = own @ arrays["x_proj_weight"][head].T
        rank = projected.shape[-1] - 2 * states
        low, b, c = np.split(projected, [rank, rank + states], axis=-1)
        dt = softplus(low @ arrays["dt_proj_weight"][head].T + arrays["dt_proj_bias"][head])
        outputs.append(diagonal_scan(own, dt, -np.exp(arrays["A_log"][head]), b, c, arrays["D"][head]))
    y = np.concatenate(outputs, axis=-1) * silu(pairs[..., 1])
    return y @ arrays["out_proj.weight"].T + arrays.get("out_proj.bias", 0.0)
