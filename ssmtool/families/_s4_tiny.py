"""Small random S4 checkpoints, one layout each, for the conformance suite."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ssmtool.families._s4_layouts import LAYOUTS, SPARE


@dataclass(frozen=True)
class _Recipe:
    """Sizes of the letters in a layout's shapes that differ from plain ones, kernel length, and configuration."""

    layout: str
    sizes: dict[str, int] = field(default_factory=dict)
    length: int = 0
    config: dict[str, Any] | None = None


_SHARED = {"S": 1, "K": 4, "c": 2, "T": 3}
_RECIPES = {
    "v4-diag": _Recipe("v4-diag"),
    "v4-diag-bilinear": _Recipe("v4-diag", config={"layer": {"d_state": 6, "mode": "diag", "disc": "bilinear"}}),
    "v4-diag-shared": _Recipe("v4-diag", _SHARED, config={"layer": {"d_state": 6, "n_ssm": 1, "mode": "diag"}}),
    "v4-diag-transforms": _Recipe(
        "v4-diag",
        {"S": 2},
        config={"real_transform": "softplus", "imag_transform": "exp", "dt_transform": "softplus", "dt_fast": True},
    ),
    "v4-diag-bandlimit": _Recipe("v4-diag", config={"bandlimit": 1.05}),
    "v4-real": _Recipe("v4-real", {"S": 2, "K": 2, "c": 2}),
    "v4-dplr": _Recipe("v4-dplr", length=16, config={"layer": {"d_state": 6, "mode": "dplr"}}),
    "v4-dplr-untied": _Recipe("v4-dplr"),
    "v4-dplr-shared": _Recipe("v4-dplr", _SHARED | {"R": 2}, length=9),
    "v3-diag": _Recipe("v3-diag", {"S": 2}),
    "v3-diag-zoh": _Recipe("v3-diag", {"K": 2}, config={"disc": "zoh", "real_type": "relu"}),
    "v3-nplr": _Recipe("v3-nplr", {"S": 2}, length=16),
    "v3-nplr-untied": _Recipe("v3-nplr", {"K": 4, "c": 2, "R": 2}),
}

VARIANTS = tuple(_RECIPES)


def tiny(variant: str, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """Two layers of four channels with three slots, named as a model of the s4 repository names them."""
    recipe, rng = _RECIPES[variant], np.random.default_rng(seed)
    layout = LAYOUTS[recipe.layout]
    size = {"H": 4, "S": 4, "N": 3, "K": 1, "c": 1, "R": 1, "T": 1, "1": 1, "2": 2} | recipe.sizes
    tensors = {"model.encoder.weight": rng.normal(size=(4, 2)), "model.encoder.bias": rng.normal(size=4)}
    for i in range(2):
        block = f"model.layers.{i}.layer."
        prefix = block + ("layer." if layout.version == 4 else "")
        for role, stored in layout.stored.items():
            shape = tuple(size[x] for x in layout.shapes[role].split())
            tensors[prefix + stored] = _values(rng, role, shape, recipe)
        if recipe.layout == "v3-diag":
            tensors[prefix + SPARE] = rng.normal(size=(size["S"], size["N"], 2))
        tensors[block + "output_linear.0.weight"] = rng.normal(
            size=(8, 4 * size["c"], 1)[: 3 if layout.version == 3 else 2]
        )
        tensors[block + "output_linear.0.bias"] = rng.normal(size=8)
        tensors[f"model.layers.{i}.norm.norm.weight"] = rng.normal(size=4)
    tensors |= {"model.decoder.weight": rng.normal(size=(3, 4)), "model.decoder.bias": rng.normal(size=3)}
    keep = {name: np.asarray(x, dtype=x.dtype if x.dtype == np.int64 else np.float32) for name, x in tensors.items()}
    return keep, recipe.config


def _values(rng: np.random.Generator, role: str, shape: tuple[int, ...], recipe: _Recipe) -> np.ndarray:
    """Random values in a range where every transform is stable and within its band limit."""
    if role == "length":
        return np.asarray(recipe.length, dtype=np.int64)
    if role == "dt":
        log = rng.uniform(np.log(0.05), np.log(0.3), shape)
        return log if not (recipe.config or {}).get("dt_fast") else rng.uniform(-1.7, -1.0, shape)
    if role == "A_real":
        return rng.uniform(0.2, 1.0, shape)
    if role == "A_imag":
        if (recipe.config or {}).get("imag_transform"):
            return rng.uniform(0.1, 1.5, shape)
        wide = 15 if (recipe.config or {}).get("bandlimit") else 4
        return wide * rng.normal(size=shape)
    return rng.normal(size=shape)
