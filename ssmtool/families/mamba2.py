"""Mamba-2 mixers: mamba_ssm, Hugging Face Mamba2, mambapy.

The tensors and the formula are in _mamba2.py. All normalise after the gate, in G groups but for mambapy, which takes
the mean over all channels; mamba_ssm can turn that around (norm_before_gate) or leave the norm away (rmsnorm false),
give D one value per channel (D_has_hdim), and run the scan on part of the channels (d_ssm). Hybrids whose mixers have
the same tensors multiply, clamp and normalise otherwise: what is not named mamba2 by its configuration is taken for one
only if nothing speaks against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.errors import FamilyError
from ssmtool.families import _mamba2, _single
from ssmtool.families import _mamba2_tiny as size
from ssmtool.families._contract import Layer, Stack
from ssmtool.families._mamba1_tiny import normal, placed, weights
from ssmtool.families._mamba2_facts import groups_and_states, step_limits
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

SUMMARY = "Mamba-2: mamba_ssm, Hugging Face and mambapy; selective, one decay per head"
REFERENCE = (
    "Dao, Gu, ICML 2024 (arXiv:2405.21060); github.com/state-spaces/mamba, transformers Mamba2ForCausalLM, "
    "github.com/alxndrTL/mamba.py"
)
VARIANTS = ("mamba-ssm", "mamba-ssm-split", "mamba-ssm-plain", "huggingface", "mambapy")

BIDIRECTIONAL = ("mamba_fwd.", "mamba_rev.")  # LC-PLM
HYBRIDS = "zamba2, bamba, falcon_h1, nemotron_h, granitemoehybrid"


def layers(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any] | None) -> tuple[Layer, ...]:
    """Mamba-2 mixers, unless model_type names another family.

    Raises:
        FamilyError: inconsistent or quantised tensors, no configuration, or one that leaves open which architecture
            this is.
    """
    if architecture(config) not in (None, "mamba", "mamba2"):
        return ()
    found = {p: f for p, f in mixers(tensors, _mamba2.ROLES).items() if _is_ours(p, f, tensors)}
    names = layer_names(found)
    return tuple(_layer(names[p], p, f, tensors, config) for p, f in found.items())


def _is_ours(prefix: str, found: Mapping[str, str], tensors: Mapping[str, TensorInfo]) -> bool:
    return not prefix.endswith(BIDIRECTIONAL) and _mamba2.is_mamba2(prefix, found, tensors)


def _layer(
    name: str, prefix: str, found: dict[str, str], tensors: Mapping[str, TensorInfo], config: Mapping[str, Any] | None
) -> Layer:
    refuse_quantised(prefix, found, tensors, config)
    facts = settings(config, "mamba2")
    groups, states = groups_and_states(
        facts,
        prefix,
        found,
        tensors,
        group_keys=("ngroups", "n_groups") if not model_types(config) else ("n_groups", "ngroups"),
        state_keys=("d_state", "state_size") if not model_types(config) else ("state_size", "d_state"),
        groups=8 if architecture(config) == "mamba2" else 1,
        states=64 if _is_mambapy(facts) else 128,
    )
    _known(name, prefix, tensors, config)
    silu_only(facts, name, "hidden_act")
    low, high = step_limits(facts, "time_step_limit", "dt_limit")
    return _mamba2.layer(
        "mamba2",
        _variant(prefix, tensors),
        name,
        prefix,
        found,
        tensors,
        _mamba2.Facts(
            groups=groups,
            states=states,
            eps=number(facts, "layer_norm_epsilon", default=1e-5),
            norm_groups=1 if _is_mambapy(facts) else groups,
            norm_before_gate=bool(option(facts, "norm_before_gate", default=False)),
            dt_min=low,
            dt_max=high,
            inner=int(number(facts, "d_ssm", default=0)),
        ),
    )


def _is_mambapy(facts: Mapping[str, Any]) -> bool:
    return "expand_factor" in facts and "d_head" in facts


def _known(name: str, prefix: str, tensors: Mapping[str, TensorInfo], config: Mapping[str, Any] | None) -> None:
    """Raises FamilyError where the mixer may be one of a hybrid that computes something else from the same tensors."""
    named = architecture(config) in ("mamba", "mamba2") or "ssm_cfg" in (config or {})
    hybrid = prefix.endswith("mamba.") or any(
        n.endswith(("mixer.q_proj.weight", "mixer.up_proj.weight")) for n in tensors
    )
    foreign = model_types(config)
    if named or not (hybrid or foreign):
        return
    raise FamilyError(
        f"model_type {foreign[0]!r} is unknown" if foreign else "config.json has no model_type",
        where=name,
        remedy=f"Multipliers, limits and norms of {HYBRIDS} hang on it; "
        'add "model_type": "mamba2" to config.json if these are plain Mamba-2 layers',
    )


def _variant(prefix: str, tensors: Mapping[str, TensorInfo]) -> str:
    root = prefix.rsplit("layers.", 1)[0]
    if root.endswith("mamba.") and root != prefix:
        return "mambapy"
    return "huggingface" if root + "embeddings.weight" in tensors else "mamba-ssm"


to_mixers, from_mixers, forward = _single.to_mixers2, _single.from_mixers2, _single.forward2


def reduced_config(config: Mapping[str, Any] | None, layer: Layer, slots: int) -> dict[str, Any]:
    """d_state (mamba_ssm, in ssm_cfg) or state_size (Hugging Face)."""
    keys = ("state_size", "d_state") if model_types(config) else ("d_state", "state_size")
    return with_states(config, keys, slots, "ssm_cfg")


def stack(
    tensors: Mapping[str, TensorInfo], config: Mapping[str, Any] | None, layers: tuple[Layer, ...]
) -> Stack | None:
    """The language model around the mixers; None for hybrids and layer norms."""
    facts = settings(config, "mamba2")
    if facts.get("rms_norm") is False or facts.get("mup"):
        return None
    eps = number(facts, "layer_norm_epsilon", "rms_norm_eps", "norm_epsilon", default=1e-5)
    return pure_stack(tensors, layers, eps, option(facts, "tie_word_embeddings", "tie_embeddings"))


def tiny(variant: str, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """Two blocks. "split": d_ssm smaller than the inner width, D per channel; "plain": without the gated norm."""
    rng, huggingface = np.random.default_rng(seed), variant == "huggingface"
    split, plain = variant == "mamba-ssm-split", variant == "mamba-ssm-plain"
    mambapy = variant == "mambapy"
    trunk, root = ("mamba.", "") if mambapy else ("backbone.", "backbone.")
    tensors = {root + ("embeddings.weight" if huggingface else "embedding.weight"): normal(rng, 16, size.WIDTH)}
    for i in range(2):
        block = f"{trunk}layers.{i}."
        tensors[block + "norm.weight"] = weights(rng, size.WIDTH)
        mixer = size.mixer(rng, bias=not plain, norm=not plain, mlp=4 if split else 0, per_channel=split)
        tensors |= placed(block + "mixer.", mixer)
    tensors |= {root + "norm_f.weight": weights(rng, size.WIDTH), "lm_head.weight": normal(rng, 16, size.WIDTH)}
    if huggingface:
        config = {"model_type": "mamba2", "hidden_size": size.WIDTH, "state_size": size.STATES, "n_groups": size.GROUPS}
        config |= {"num_heads": size.HEADS, "head_dim": size.HEAD, "num_hidden_layers": 2, "layer_norm_epsilon": 1e-4}
        return tensors, config | {"time_step_limit": [0.05, 0.9], "tie_word_embeddings": False}
    if mambapy:
        config = {"d_model": size.WIDTH, "d_state": size.STATES, "n_groups": size.GROUPS, "d_head": size.HEAD}
        return tensors, config | {"expand_factor": 2, "rms_norm_eps": 1e-3}
    ssm = {"layer": "Mamba2", "d_state": size.STATES, "ngroups": size.GROUPS, "headdim": size.HEAD}
    ssm |= {"d_ssm": size.INNER, "D_has_hdim": True} if split else {"rmsnorm": False} if plain else {}
    ssm |= {"norm_before_gate": True, "dt_limit": [0.1, {"__float__": "Infinity"}]} if split else {}
    return tensors, {"d_model": size.WIDTH, "n_layer": 2, "ssm_cfg": ssm, "rms_norm": True, "tie_embeddings": False}
