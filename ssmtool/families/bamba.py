"""Bamba: the Mamba-2 layers of a hybrid with attention.

Names `model.layers.i.mamba.`. Grouped norm after the gate, eps rms_norm_eps (releases of transformers before 5 took it
over the full width: the same for one group, which every published checkpoint has). dt within time_step_limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.families import _hybrid, _single
from ssmtool.families import _mamba2_tiny as size
from ssmtool.families._contract import Layer
from ssmtool.families._mamba2 import Facts
from ssmtool.families._mamba2_facts import step_limits
from ssmtool.families._mixers import with_states
from ssmtool.families._names import number

SUMMARY = "Bamba (Hugging Face): the Mamba-2 layers of a hybrid with attention"
REFERENCE = "github.com/foundation-model-stack/bamba; transformers BambaForCausalLM"
VARIANTS = ("huggingface",)


def layers(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any] | None) -> tuple[Layer, ...]:
    """The mixers of a checkpoint of that model_type. Raises FamilyError if inconsistent or quantised."""
    return _hybrid.layers(
        "bamba",
        tensors,
        config,
        group_keys=("mamba_n_groups",),
        state_keys=("mamba_d_state",),
        groups=1,
        states=256,
        facts_of=_facts,
        activation=("hidden_act",),
    )


def _facts(config: Mapping[str, Any], groups: int, states: int) -> Facts:
    low, high = step_limits(config, "time_step_limit")
    eps = number(config, "rms_norm_eps", default=1e-5)
    return Facts(groups, states, eps=eps, norm_groups=groups, dt_min=low, dt_max=high)


to_mixers, from_mixers, forward = _single.to_mixers2, _single.from_mixers2, _single.forward2
stack = _single.no_stack


def reduced_config(config: Mapping[str, Any] | None, layer: Layer, slots: int) -> dict[str, Any]:
    """mamba_d_state."""
    return with_states(config, ("mamba_d_state",), slots)


def tiny(variant: str, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """Two Mamba-2 blocks and one with attention."""
    others = ("layers.1.self_attn.q_proj.weight", "layers.0.feed_forward.up_proj.weight")
    config = {"model_type": "bamba", "mamba_n_groups": size.GROUPS, "mamba_d_state": size.STATES}
    config |= {"mamba_n_heads": size.HEADS, "hidden_size": size.WIDTH, "rms_norm_eps": 1e-3}
    config["time_step_limit"] = [0.1, 0.8]
    return _hybrid.tiny(seed, "model.", ("layers.0.mamba.", "layers.2.mamba."), others), config
