"""Zamba2: Mamba-2 layers of a hybrid with shared attention blocks.

Names `model.layers.i.mamba.` or, in layers with attention, `model.layers.i.mamba_decoder.mamba.`. Grouped norm after
the gate with eps 1e-5, which no configuration changes; dt is not below time_step_min, and time_step_limit is not read.
The shared blocks, their adapters and the linear maps pass through.
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
from ssmtool.families._mixers import with_states
from ssmtool.families._names import number

SUMMARY = "Zamba2 (Hugging Face): the Mamba-2 layers of a hybrid with shared attention"
REFERENCE = "Glorioso et al. 2024 (arXiv:2411.15242); transformers Zamba2ForCausalLM"
VARIANTS = ("huggingface",)


def layers(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any] | None) -> tuple[Layer, ...]:
    """The mixers of a checkpoint of that model_type. Raises FamilyError if inconsistent or quantised."""
    return _hybrid.layers(
        "zamba2",
        tensors,
        config,
        group_keys=("mamba_ngroups",),
        state_keys=("mamba_d_state",),
        groups=1,
        states=64,
        facts_of=_facts,
    )


def _facts(config: Mapping[str, Any], groups: int, states: int) -> Facts:
    low = number(config, "time_step_min", default=1e-3)
    return Facts(groups, states, eps=1e-5, norm_groups=groups, dt_min=low)


to_mixers, from_mixers, forward = _single.to_mixers2, _single.from_mixers2, _single.forward2
stack = _single.no_stack


def reduced_config(config: Mapping[str, Any] | None, layer: Layer, slots: int) -> dict[str, Any]:
    """mamba_d_state."""
    return with_states(config, ("mamba_d_state",), slots)


def tiny(variant: str, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """A plain block and a hybrid one; a lower limit on dt that many steps fall below."""
    places = ("layers.0.mamba.", "layers.1.mamba_decoder.mamba.")
    others = ("layers.1.linear.weight", "layers.1.shared_transformer.self_attn.q_proj.weight")
    config = {"model_type": "zamba2", "mamba_ngroups": size.GROUPS, "mamba_d_state": size.STATES}
    config |= {"n_mamba_heads": size.HEADS, "hidden_size": size.WIDTH, "time_step_min": 0.3, "hidden_act": "gelu"}
    return _hybrid.tiny(seed, "model.", places, others), config
