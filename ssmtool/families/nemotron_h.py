"""Nemotron-H: the Mamba-2 layers of a hybrid whose blocks hold one mixer each: Mamba-2, attention, MLP or experts.

Names on disk `backbone.layers.i.mixer.`; transformers calls the same module model.layers.i.mixer. Grouped norm after
the gate, eps layer_norm_epsilon. dt is not below time_step_min; time_step_limit stands in the configuration but
transformers does not apply it.
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

SUMMARY = "Nemotron-H (Hugging Face): the Mamba-2 layers of a hybrid with attention, MLP and expert layers"
REFERENCE = "NVIDIA 2025 (arXiv:2504.03624); transformers NemotronHForCausalLM"
VARIANTS = ("huggingface",)


def layers(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any] | None) -> tuple[Layer, ...]:
    """The Mamba-2 mixers of a checkpoint of that model_type. Raises FamilyError if inconsistent or quantised."""
    return _hybrid.layers(
        "nemotron_h",
        tensors,
        config,
        group_keys=("mamba_n_groups", "n_groups"),
        state_keys=("ssm_state_size", "mamba_d_state"),
        groups=8,
        states=128,
        facts_of=_facts,
        activation=("mamba_hidden_act",),
    )


def _facts(config: Mapping[str, Any], groups: int, states: int) -> Facts:
    eps = number(config, "layer_norm_epsilon", default=1e-5)
    low = number(config, "mamba_dt_min", "time_step_min", default=1e-3)
    return Facts(groups, states, eps=eps, norm_groups=groups, dt_min=low)


to_mixers, from_mixers, forward = _single.to_mixers2, _single.from_mixers2, _single.forward2
stack = _single.no_stack


def reduced_config(config: Mapping[str, Any] | None, layer: Layer, slots: int) -> dict[str, Any]:
    """ssm_state_size."""
    return with_states(config, ("ssm_state_size", "mamba_d_state"), slots)


def tiny(variant: str, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """Two Mamba-2 blocks, one attention block, one MLP block."""
    others = ("layers.1.mixer.q_proj.weight", "layers.3.mixer.up_proj.weight")
    config = {"model_type": "nemotron_h", "n_groups": size.GROUPS, "ssm_state_size": size.STATES}
    config |= {"mamba_num_heads": size.HEADS, "mamba_head_dim": size.HEAD, "hidden_size": size.WIDTH}
    config |= {"layer_norm_epsilon": 1e-3, "time_step_min": 0.3, "time_step_limit": [0.0, 0.4]}
    return _hybrid.tiny(seed, "backbone.", ("layers.0.mixer.", "layers.2.mixer."), others), config
