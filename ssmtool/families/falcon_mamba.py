"""FalconMamba: Mamba-1 mixers whose dt, B and C are normalised by their root mean square, without weights.

The tensors are those of the family mamba; only model_type "falcon_mamba" tells the two apart. eps is mixer_rms_eps.

A mean over fewer states is another mean: where states were dropped, what the norms of B and C then do differently is
part of the reduction's error. Norm weights of a reduced mixer go into dt_proj, out_proj and D (_mamba1.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.families import _mamba1, _single
from ssmtool.families import _mamba1_tiny as size
from ssmtool.families._contract import Layer, Stack
from ssmtool.families._mixers import architecture, mixers, refuse_quantised, settings, silu_only, with_states
from ssmtool.families._names import layer_names, number, option
from ssmtool.families._pure_stack import stack as pure_stack

SUMMARY = "FalconMamba (Hugging Face): Mamba layers with weightless norms on dt, B and C"
REFERENCE = "Zuo et al. 2024 (arXiv:2410.05355); transformers FalconMambaForCausalLM"
VARIANTS = ("huggingface",)


def layers(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any] | None) -> tuple[Layer, ...]:
    """The Mamba-1 mixers of a checkpoint of that model_type. Raises FamilyError if inconsistent or quantised."""
    if architecture(config) != "falcon_mamba":
        return ()
    found = {p: f for p, f in mixers(tensors, _mamba1.ROLES).items() if _mamba1.is_mamba1(p, f, tensors)}
    names = layer_names(found)
    return tuple(_layer(names[p], p, f, tensors, config) for p, f in found.items())


def _layer(
    name: str, prefix: str, found: dict[str, str], tensors: Mapping[str, TensorInfo], config: Mapping[str, Any] | None
) -> Layer:
    refuse_quantised(prefix, found, tensors, config)
    facts = settings(config, "falcon_mamba")
    silu_only(facts, name, "hidden_act")
    eps = number(facts, "mixer_rms_eps", default=1e-6)
    return _mamba1.layer("falcon_mamba", "huggingface", name, prefix, found, tensors, eps=eps, weightless=True)


to_mixers, from_mixers, forward = _single.to_mixers1, _single.from_mixers1, _single.forward1


def reduced_config(config: Mapping[str, Any] | None, layer: Layer, slots: int) -> dict[str, Any]:
    """state_size."""
    return with_states(config, ("state_size",), slots)


def stack(
    tensors: Mapping[str, TensorInfo], config: Mapping[str, Any] | None, layers: tuple[Layer, ...]
) -> Stack | None:
    """The language model around the mixers."""
    facts = settings(config, "falcon_mamba")
    eps = number(facts, "layer_norm_epsilon", default=1e-5)
    return pure_stack(tensors, layers, eps, option(facts, "tie_word_embeddings"))


def tiny(variant: str, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """Two blocks with biases, tied embeddings."""
    rng = np.random.default_rng(seed)
    tensors = {"backbone.embeddings.weight": size.normal(rng, 16, size.WIDTH)}
    for i in range(2):
        tensors[f"backbone.layers.{i}.norm.weight"] = size.weights(rng, size.WIDTH)
        tensors |= size.placed(f"backbone.layers.{i}.mixer.", size.mixer(rng))
    tensors["backbone.norm_f.weight"] = size.weights(rng, size.WIDTH)
    config = {"model_type": "falcon_mamba", "hidden_size": size.WIDTH, "state_size": size.STATES, "use_bias": True}
    return tensors, config | {"mixer_rms_eps": 1e-3, "layer_norm_epsilon": 1e-4, "tie_word_embeddings": True}
