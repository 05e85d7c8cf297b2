"""Mamba-1 mixers: mamba_ssm, Hugging Face Mamba, mambapy, Graph-Mamba, and mixers on their own.

The tensors and the formula are in _mamba1.py. mambapy may normalise dt, B and C (dt_layernorm, B_layernorm,
C_layernorm; eps is rms_norm_eps of its configuration, by default 1e-5).

FalconMamba's tensors are the same, its norms have no weights: only model_type tells, so without a configuration a
FalconMamba checkpoint would be taken for this family.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.families import _mamba1, _mamba1_tiny, _single
from ssmtool.families._contract import Layer, Stack
from ssmtool.families._mixers import (
    architecture,
    mixers,
    model_types,
    refuse_quantised,
    settings,
    silu_only,
    with_states,
)
from ssmtool.families._names import layer_names, number, option
from ssmtool.families._pure_stack import stack as pure_stack

SUMMARY = "Mamba: mamba_ssm, Hugging Face, mambapy and single mixers; selective, one real diagonal system per channel"
REFERENCE = (
    "Gu, Dao, COLM 2024 (arXiv:2312.00752); github.com/state-spaces/mamba, transformers MambaForCausalLM, "
    "github.com/alxndrTL/mamba.py, github.com/bowang-lab/Graph-Mamba"
)
VARIANTS = ("mamba-ssm", "huggingface", "mambapy", "graph-mamba", "bare")

ROLES = _mamba1.ROLES | {
    "dt_layernorm.weight": "dt_norm",
    "B_layernorm.weight": "b_norm",
    "C_layernorm.weight": "c_norm",
}
UNSEEN = (
    "Without config.json these are taken as plain Mamba layers; FalconMamba's norms of dt, B and C leave no tensors."
)
BIDIRECTIONAL = ("mamba_fwd.", "mamba_rev.")  # Caduceus


def layers(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any] | None) -> tuple[Layer, ...]:
    """Plain Mamba-1 mixers, unless model_type names another family. Raises FamilyError if inconsistent or quantised."""
    if architecture(config) not in (None, "mamba"):
        return ()
    found = {p: f for p, f in mixers(tensors, ROLES).items() if _is_ours(p, f, tensors)}
    names = layer_names(found)
    return tuple(_layer(names[p], p, f, tensors, config) for p, f in found.items())


def _is_ours(prefix: str, found: Mapping[str, str], tensors: Mapping[str, TensorInfo]) -> bool:
    other = prefix.endswith(BIDIRECTIONAL) or prefix + "b_layernorm.weight" in tensors
    return not other and _mamba1.is_mamba1(prefix, found, tensors)


def _layer(
    name: str, prefix: str, found: dict[str, str], tensors: Mapping[str, TensorInfo], config: Mapping[str, Any] | None
) -> Layer:
    refuse_quantised(prefix, found, tensors, config)
    facts = settings(config, "mamba")
    silu_only(facts, name, "hidden_act")
    foreign = next((kind for kind in model_types(config) if architecture({"model_type": kind}) is None), None)
    note = (
        UNSEEN if not config else f"model_type {foreign!r} is unknown: taken as plain Mamba layers." if foreign else ""
    )
    variant = _variant(prefix, found, tensors)
    eps = number(facts, "rms_norm_eps", default=1e-5) if "dt_norm" in found else 0.0
    return _mamba1.layer("mamba", variant, name, prefix, found, tensors, eps=eps, note=note)


def _variant(prefix: str, found: Mapping[str, str], tensors: Mapping[str, TensorInfo]) -> str:
    root = prefix.rsplit("layers.", 1)[0]
    if root + "embeddings.weight" in tensors:
        return "huggingface"
    if root + "embedding.weight" in tensors:
        return "mamba-ssm"
    if prefix.endswith("self_attn."):
        return "graph-mamba"
    mambapy = "dt_norm" in found or (root.endswith("mamba.") and root != prefix)
    return "mambapy" if mambapy else "bare"


to_mixers, from_mixers, forward = _single.to_mixers1, _single.from_mixers1, _single.forward1


def reduced_config(config: Mapping[str, Any] | None, layer: Layer, slots: int) -> dict[str, Any]:
    """d_state (mamba_ssm: in ssm_cfg; mambapy) or state_size (Hugging Face)."""
    keys = ("state_size", "d_state") if model_types(config) else ("d_state", "state_size")
    return with_states(config, keys, slots, "ssm_cfg")


def stack(
    tensors: Mapping[str, TensorInfo], config: Mapping[str, Any] | None, layers: tuple[Layer, ...]
) -> Stack | None:
    """The language model around the mixers; None for hybrids, layer norms, and mambapy's muP."""
    facts = settings(config, "mamba")
    if facts.get("mup") or facts.get("rms_norm") is False:
        return None
    eps = number(facts, "layer_norm_epsilon", "rms_norm_eps", "norm_epsilon", default=1e-5)
    return pure_stack(tensors, layers, eps, option(facts, "tie_word_embeddings", "tie_embeddings"))


def tiny(variant: str, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """Two blocks; for "bare" one mixer and no configuration."""
    rng, size = np.random.default_rng(seed), _mamba1_tiny
    if variant == "bare":
        return size.placed("encoder.mamba.", size.mixer(rng)), None
    trunk, mixer = {
        "mamba-ssm": ("backbone.", "mixer."),
        "huggingface": ("backbone.", "mixer."),
        "mambapy": ("mamba.", "mixer."),
        "graph-mamba": ("model.", "self_attn."),
    }[variant]
    names = ("dt_layernorm.weight", "B_layernorm.weight", "C_layernorm.weight") if variant == "mambapy" else ()
    tensors: dict[str, np.ndarray] = {}
    for i in range(2):
        block = f"{trunk}layers.{i}."
        tensors[block + "norm.weight"] = size.weights(rng, size.WIDTH)
        tensors |= size.placed(block + mixer, size.mixer(rng, bias=variant != "mamba-ssm", norms=names))
    root = "" if variant == "mambapy" else trunk
    embedding = root + ("embeddings.weight" if variant == "huggingface" else "embedding.weight")
    if variant == "graph-mamba":
        return tensors | {"model.node_encoder.weight": size.normal(rng, size.WIDTH, 3)}, {
            "gt": {"d_state": size.STATES}
        }
    tensors |= {embedding: size.normal(rng, 16, size.WIDTH), root + "norm_f.weight": size.weights(rng, size.WIDTH)}
    if variant != "huggingface":
        tensors["lm_head.weight"] = size.normal(rng, 16, size.WIDTH)
    configs = {
        "mamba-ssm": {"d_model": size.WIDTH, "n_layer": 2, "vocab_size": 16, "ssm_cfg": {"d_state": size.STATES}}
        | {"rms_norm": True, "tie_embeddings": False},
        "huggingface": {"model_type": "mamba", "hidden_size": size.WIDTH, "state_size": size.STATES}
        | {"layer_norm_epsilon": 1e-4, "num_hidden_layers": 2, "tie_word_embeddings": True},
        "mambapy": {"d_model": size.WIDTH, "n_layers": 2, "d_state": size.STATES, "rms_norm_eps": 1e-3},
    }
    return tensors, configs[variant]
