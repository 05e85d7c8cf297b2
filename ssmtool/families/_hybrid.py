"""Hybrids with Mamba-2 mixers, each told by its model_type alone: what they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.families import _mamba2
from ssmtool.families import _mamba2_tiny as size
from ssmtool.families._contract import Layer
from ssmtool.families._mamba1_tiny import normal, placed, weights
from ssmtool.families._mamba2_facts import groups_and_states
from ssmtool.families._mixers import architecture, mixers, refuse_quantised, settings, silu_only
from ssmtool.families._names import layer_names


def layers(
    family: str,
    tensors: Mapping[str, TensorInfo],
    config: Mapping[str, Any] | None,
    *,
    group_keys: tuple[str, ...],
    state_keys: tuple[str, ...],
    groups: int,
    states: int,
    facts_of: Callable[[Mapping[str, Any], int, int], _mamba2.Facts],
    activation: tuple[str, ...] = (),
) -> tuple[Layer, ...]:
    """Every Mamba-2 mixer of a checkpoint whose model_type names `family`.

    Args:
        group_keys, state_keys, groups, states: the configuration's words for G and N, and its defaults.
        facts_of: (configuration, G, N) -> all facts.
        activation: keys that name the activation of the mixers.

    Raises:
        FamilyError: inconsistent or quantised tensors, or a configuration that does not fit them.
    """
    if architecture(config) != family:
        return ()
    facts = settings(config, family)
    found = {p: f for p, f in mixers(tensors, _mamba2.ROLES).items() if _mamba2.is_mamba2(p, f, tensors)}
    names = layer_names(found)
    done = []
    for prefix, parts in found.items():
        refuse_quantised(prefix, parts, tensors, config)
        silu_only(facts, names[prefix], *activation)
        g, n = groups_and_states(
            facts,
            prefix,
            parts,
            tensors,
            group_keys=group_keys,
            state_keys=state_keys,
            groups=groups,
            states=states,
        )
        done.append(_mamba2.layer(family, "huggingface", names[prefix], prefix, parts, tensors, facts_of(facts, g, n)))
    return tuple(done)


def tiny(
    seed: int, trunk: str, places: tuple[str, ...], others: tuple[str, ...], norm: bool = True
) -> dict[str, np.ndarray]:
    """Mixers at trunk + places (a layer each), and square matrices of other blocks under trunk + others."""
    rng, d = np.random.default_rng(seed), size.WIDTH
    tensors = {trunk + "embed_tokens.weight": normal(rng, 16, d)}
    for place in places:
        tensors |= placed(trunk + place, size.mixer(rng, norm=norm))
    tensors |= {trunk + other: normal(rng, d, d) for other in others}
    return tensors | {trunk + "final_layernorm.weight": weights(rng, d)}
