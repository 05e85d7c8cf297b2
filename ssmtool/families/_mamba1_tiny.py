"""Small random Mamba-1 mixers: every tensor random, so that no default hides a wrong layout."""

from __future__ import annotations

import numpy as np

WIDTH, INNER, STATES, RANK, TAPS = 6, 10, 5, 3, 3


def normal(rng: np.random.Generator, *shape: int, scale: float = 0.5) -> np.ndarray:
    """float32 normal numbers."""
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def weights(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """float32 norm weights, positive and apart from 1."""
    return rng.uniform(0.5, 1.5, shape).astype(np.float32)


def mixer(rng: np.random.Generator, *, bias: bool = True, norms: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """One mixer's tensors by suffix; norms: names for those of dt, B and C."""
    tensors = {
        "in_proj.weight": normal(rng, 2 * INNER, WIDTH),
        "conv1d.weight": normal(rng, INNER, 1, TAPS),
        "conv1d.bias": normal(rng, INNER),
        "x_proj.weight": normal(rng, RANK + 2 * STATES, INNER),
        "dt_proj.weight": normal(rng, INNER, RANK),
        "dt_proj.bias": normal(rng, INNER, scale=1.0) - 1,
        "A_log": np.log(rng.uniform(0.2, 4.0, (INNER, STATES))).astype(np.float32),
        "D": normal(rng, INNER, scale=1.0),
        "out_proj.weight": normal(rng, WIDTH, INNER),
    }
    if bias:
        tensors |= {"in_proj.bias": normal(rng, 2 * INNER), "out_proj.bias": normal(rng, WIDTH)}
    return tensors | dict(zip(norms, (weights(rng, n) for n in (RANK, STATES, STATES)), strict=False))


def placed(prefix: str, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors under their full names."""
    return {prefix + name: x for name, x in tensors.items()}
