"""Jamba: the Mamba-1 layers of a hybrid with attention and experts; dt, B and C have RMS norms with weights.

dt_layernorm.weight (R,), b_layernorm.weight and c_layernorm.weight (N,) beside the tensors of _mamba1.py; eps is
rms_norm_eps. Attention, dense and expert layers pass through.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.families import _mamba1, _single
from ssmtool.families import _mamba1_tiny as size
from ssmtool.families._contract import Layer
from ssmtool.families._mixers import architecture, mixers, refuse_quantised, settings, silu_only, with_states
from ssmtool.families._names import layer_names, number, option

SUMMARY = "Jamba (Hugging Face): the Mamba layers, with norms on dt, B and C, of a hybrid with attention"
REFERENCE = "Lieber et al. 2024 (arXiv:2403.19887); transformers JambaForCausalLM"
VARIANTS = ("huggingface",)

NORMS = ("dt_layernorm.weight", "b_layernorm.weight", "c_layernorm.weight")
ROLES = _mamba1.ROLES | dict(zip(NORMS, _mamba1.NORMS, strict=True))


def layers(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any] | None) -> tuple[Layer, ...]:
    """Mamba-1 mixers with b_layernorm beside them. Raises FamilyError if inconsistent or quantised."""
    if architecture(config) not in (None, "jamba"):
        return ()
    found = {p: f for p, f in mixers(tensors, ROLES).items() if "b_norm" in f and _mamba1.is_mamba1(p, f, tensors)}
    names = layer_names(found)
    return tuple(_layer(names[p], p, f, tensors, config) for p, f in found.items())


def _layer(
    name: str, prefix: str, found: dict[str, str], tensors: Mapping[str, TensorInfo], config: Mapping[str, Any] | None
) -> Layer:
    refuse_quantised(prefix, found, tensors, config)
    facts = settings(config, "jamba")
    silu_only(facts, name, "hidden_act")
    told = option(facts, "rms_norm_eps")
    note = (
        "" if told is not None else "The norms' eps is taken as 1e-6, Jamba's default: no rms_norm_eps in config.json."
    )
    eps = number(facts, "rms_norm_eps", default=1e-6)
    return _mamba1.layer("jamba", "huggingface", name, prefix, found, tensors, eps=eps, note=note)


to_mixers, from_mixers, forward = _single.to_mixers1, _single.from_mixers1, _single.forward1
stack = _single.no_stack


def reduced_config(config: Mapping[str, Any] | None, layer: Layer, slots: int) -> dict[str, Any]:
    """mamba_d_state."""
    return with_states(config, ("mamba_d_state",), slots)


def tiny(variant: str, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """A Mamba block, an attention block, a Mamba block."""
    rng, d = np.random.default_rng(seed), size.WIDTH
    tensors = {"model.embed_tokens.weight": size.normal(rng, 16, d)}
    for i in range(3):
        block = f"model.layers.{i}."
        if i == 1:
            tensors |= {f"{block}self_attn.{x}_proj.weight": size.normal(rng, d, d) for x in "qkvo"}
        else:
            tensors |= size.placed(block + "mamba.", size.mixer(rng, norms=NORMS))
        tensors[block + "input_layernorm.weight"] = size.weights(rng, d)
        tensors[block + "feed_forward.up_proj.weight"] = size.normal(rng, 2 * d, d)
    tensors["model.final_layernorm.weight"] = size.weights(rng, d)
    config = {"model_type": "jamba", "hidden_size": d, "mamba_d_state": size.STATES, "mamba_dt_rank": size.RANK}
    return tensors, config | {"rms_norm_eps": 1e-3, "hidden_act": "silu", "mamba_proj_bias": True}
