"""Falcon-H1: the Mamba-2 mixers of a hybrid whose blocks run a mixer and attention side by side.

Names `model.layers.i.mamba.`. The configuration multiplies a mixer's input (ssm_in_multiplier), the five blocks z, x,
B, C, dt that leave its input projection (ssm_multipliers), and what it adds to the residual stream
(ssm_out_multiplier); all are folded into the canonical mixer and taken out again when it is written. Without
norm.weight there is no norm; with it the norm comes before the gate unless mamba_norm_before_gate is false. eps
rms_norm_eps; dt within time_step_limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import nan
from typing import Any

import numpy as np

from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.errors import FamilyError
from ssmtool.families import _hybrid, _single
from ssmtool.families import _mamba2_tiny as size
from ssmtool.families._contract import Layer
from ssmtool.families._mamba2 import Facts
from ssmtool.families._mamba2_facts import step_limits
from ssmtool.families._mixers import with_states
from ssmtool.families._names import number, option

SUMMARY = "Falcon-H1 (Hugging Face): Mamba-2 mixers parallel to attention, with multipliers"
REFERENCE = "Technology Innovation Institute 2025 (arXiv:2507.22448); transformers FalconH1ForCausalLM"
VARIANTS = ("norm-before-gate", "norm-after-gate", "plain")


def layers(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any] | None) -> tuple[Layer, ...]:
    """The mixers of a checkpoint of that model_type. Raises FamilyError if inconsistent or quantised."""
    return _hybrid.layers(
        "falcon_h1",
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
    told = option(config, "ssm_multipliers", default=[1.0] * 5)
    places = told if isinstance(told, list | tuple) else ()
    rows = tuple(number({"ssm_multipliers": x}, "ssm_multipliers", default=nan) for x in places)
    scale_in, scale_out = (number(config, key, default=1.0) for key in ("ssm_in_multiplier", "ssm_out_multiplier"))
    if len(rows) != 5 or 0 in (*rows, scale_in, scale_out):
        raise FamilyError(
            f"multipliers {scale_in}, {list(rows)}, {scale_out}: five for z, x, B, C, dt are needed, none of them 0",
            where="config.json",
        )
    return Facts(
        groups,
        states,
        eps=number(config, "rms_norm_eps", default=1e-5),
        norm_groups=groups,
        norm_before_gate=bool(option(config, "mamba_norm_before_gate", default=True)),
        dt_min=low,
        dt_max=high,
        scale_in=scale_in,
        scale_rows=rows,
        scale_out=scale_out,
    )


to_mixers, from_mixers, forward = _single.to_mixers2, _single.from_mixers2, _single.forward2
stack = _single.no_stack


def reduced_config(config: Mapping[str, Any] | None, layer: Layer, slots: int) -> dict[str, Any]:
    """mamba_d_state."""
    return with_states(config, ("mamba_d_state",), slots)


def tiny(variant: str, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """Two blocks with both; multipliers that are no powers of two."""
    others = ("layers.0.self_attn.q_proj.weight", "layers.1.feed_forward.up_proj.weight")
    config = {"model_type": "falcon_h1", "mamba_n_groups": size.GROUPS, "mamba_d_state": size.STATES}
    config |= {"mamba_n_heads": size.HEADS, "mamba_d_ssm": size.INNER, "hidden_size": size.WIDTH}
    config |= {"rms_norm_eps": 1e-3, "ssm_in_multiplier": 1.3, "ssm_out_multiplier": 0.7}
    config |= {"ssm_multipliers": [0.9, 1.1, 0.6, 1.7, 0.8], "mamba_rms_norm": variant != "plain"}
    config["mamba_norm_before_gate"] = variant == "norm-before-gate"
    places = ("layers.0.mamba.", "layers.1.mamba.")
    return _hybrid.tiny(seed, "model.", places, others, norm=variant != "plain"), config
