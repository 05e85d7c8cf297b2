"""Parameter trees of JAX checkpoints, flattened to names: which names are the model's, and what to call a layer."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ssmtool.families._names import groups, layer_names

# Optimisers keep moments under the parameters' own names: params/…/B and opt_state/…/mu/…/B.
OPTIMISER = frozenset({"opt_state", "optimizer", "optimizer_state", "optimizer_states"})
# Roots of flax trees: {params, batch_stats}, TrainState, and the (model, optimiser, metrics) tuple of flax.nnx.
CONTAINER = re.compile(r"^(?:(?:params|state|target|0(?=[./]layers[./]))[./])+")


def model_names(names: Iterable[str]) -> tuple[str, ...]:
    """The names outside optimiser states, in their order."""
    return tuple(n for n in names if OPTIMISER.isdisjoint(re.split("[./]", n)))


def modules(names: Iterable[str], anchor: str, leaves: Iterable[str]) -> dict[str, dict[str, str]]:
    """Tensors of every module of the model that has the tensor `anchor`.

    Args:
        anchor, leaves: names below the module, path components separated by "/", e.g. ``"rotation/angles"``;
            checkpoints may separate theirs by "/" or ".".

    Returns:
        module prefix with its trailing separator ("" at the root) -> {leaf as given: full name}.
    """
    model, leaves = model_names(names), tuple(leaves)
    found: dict[str, dict[str, str]] = {}
    for separator in "./":
        spelling = {leaf.replace("/", separator): leaf for leaf in leaves}
        for prefix, tensors in groups(model, anchor.replace("/", separator), spelling).items():
            if not prefix or prefix.endswith(separator):
                found.setdefault(prefix, {}).update({spelling[s]: name for s, name in tensors.items()})
    return found


def module_names(prefixes: Iterable[str]) -> dict[str, str]:
    """prefix -> layer name without the tree's root and wrapper prefixes, as far as the names stay unique."""
    prefixes = tuple(prefixes)
    bare = {p: CONTAINER.sub("", p) for p in prefixes}
    if len(set(bare.values())) < len(bare):
        return layer_names(prefixes)
    short = layer_names(bare.values())
    return {p: short[bare[p]] for p in prefixes}
