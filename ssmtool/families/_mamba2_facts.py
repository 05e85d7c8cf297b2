"""G, N, the clamp on dt and the norm of a Mamba-2 mixer from config.json."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.errors import FamilyError
from ssmtool.families._mamba2 import width_of_groups
from ssmtool.families._names import complete, option


def groups_and_states(
    facts: Mapping[str, Any] | None,
    prefix: str,
    found: Mapping[str, str],
    tensors: Mapping[str, TensorInfo],
    *,
    group_keys: tuple[str, ...],
    state_keys: tuple[str, ...],
    groups: int,
    states: int,
) -> tuple[int, int]:
    """G and N.

    Args:
        facts: the configuration; None if there is none.
        group_keys, state_keys: the architecture's words for them.
        groups, states: its defaults where the configuration does not say.

    Raises:
        FamilyError: no configuration, or one that does not fit G N in the shapes.
    """
    complete(prefix, found, ("in_proj.weight", "A_log", "out_proj.weight"))
    wide, where = width_of_groups(found, tensors), prefix.rstrip("./") or "layer"
    words = f'"{group_keys[0]}" and "{state_keys[0]}"'
    if not facts:
        raise FamilyError(
            f"B and C have {wide} rows together per matrix, groups times states; how many groups there are only "
            "config.json tells, and there is none",
            where=where,
            remedy=f"Put the model's config.json (with {words}) beside the checkpoint",
        )
    g, n = option(facts, *group_keys), option(facts, *state_keys)
    told = f"{_said(group_keys, g, groups)}, {_said(state_keys, n, states)}"
    g, n = (default if x is None else x for x, default in ((g, groups), (n, states)))
    if not isinstance(g, int) or not isinstance(n, int) or min(g, n) < 1 or g * n != wide:
        shapes = ", ".join(f"{found[r]} {tensors[found[r]].shape}" for r in found)
        raise FamilyError(
            f"config.json's groups times states ({told}) is not the {wide} rows of B in {shapes}",
            where=where,
            remedy=f"Correct {words} in config.json",
        )
    return g, n


def _said(keys: tuple[str, ...], value: Any, default: int) -> str:
    return f"{keys[0]} not given, by default {default}" if value is None else f"{keys[0]} {value}"


def step_limits(facts: Mapping[str, Any], *keys: str) -> tuple[float, float]:
    """The pair under one of `keys`, (0, inf) without one. Raises FamilyError if it is no pair of numbers."""
    pair = option(facts, *keys)
    if pair is None:
        return 0.0, inf
    try:
        low, high = (float(x) for x in pair)
    except (TypeError, ValueError, OverflowError):
        raise FamilyError(f"{keys[0]} is {pair!r:.80}, not a pair of numbers", where="config.json") from None
    return low, high
