"""Small random Mamba-2 mixers: every tensor random, more heads than groups, more groups than one."""

from __future__ import annotations

import numpy as np

from ssmtool.families._mamba1_tiny import normal, weights

WIDTH, HEADS, HEAD, GROUPS, STATES, TAPS = 6, 4, 3, 2, 5, 3
INNER = HEADS * HEAD


def mixer(
    rng: np.random.Generator,
    *,
    bias: bool = True,
    norm: bool = True,
    groups: int = GROUPS,
    mlp: int = 0,
    per_channel: bool = False,
) -> dict[str, np.ndarray]:
    """One mixer's tensors by suffix; mlp: channels of the gated linear part beside the scan; per_channel: D (E,)."""
    wide = INNER + 2 * groups * STATES
    rows = 2 * mlp + INNER + wide + HEADS
    tensors = {
        "in_proj.weight": normal(rng, rows, WIDTH),
        "conv1d.weight": normal(rng, wide, 1, TAPS),
        "conv1d.bias": normal(rng, wide),
        "dt_bias": normal(rng, HEADS, scale=1.0) - 1,
        "A_log": np.log(rng.uniform(0.2, 4.0, HEADS)).astype(np.float32),
        "D": normal(rng, INNER if per_channel else HEADS, scale=1.0),
        "out_proj.weight": normal(rng, WIDTH, INNER + mlp),
    }
    if norm:
        tensors["norm.weight"] = weights(rng, INNER)
    if bias:
        tensors |= {"in_proj.bias": normal(rng, rows), "out_proj.bias": normal(rng, WIDTH)}
    return tensors
