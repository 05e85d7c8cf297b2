"""VMamba's SS2D and its copies (Mamba-YOLO): one Mamba-1 scan along each of K directions of an image.

    A_logs (K E, N), Ds (K E,), dt_projs_bias (K, E)      row block k belongs to direction k
    x_proj_weight (K, R + 2N, E) or x_proj.weight (K (R + 2N), E)
    dt_projs_weight (K, E, R) or dt_projs.weight (K E, R)

The two spellings hold the same numbers. The image goes through a two-dimensional convolution and is unfolded before the
scans, and their sum is normalised and gated behind them: the scans can be diagnosed from their weights, not run on a
sequence. The canonical form is K mixers without input projection.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.errors import FamilyError
from ssmtool.families import _mamba1_tiny as size
from ssmtool.families import _single
from ssmtool.families._contract import Layer
from ssmtool.families._mixers import architecture, changed, mixers, refuse_quantised, with_states
from ssmtool.families._names import complete, dimensions, layer_names
from ssmtool.families._recurrence import diagonal_scan, softplus
from ssmtool.selective.mixers import DiagonalMixer, Mixer

SUMMARY = "VMamba (SS2D), Mamba-YOLO: scans along the directions of an image, for inspection and diagnosis"
REFERENCE = "Liu et al., NeurIPS 2024 (arXiv:2401.10166); github.com/MzeroMiko/VMamba, HZAI-ZJNU/Mamba-YOLO"
VARIANTS = ("stacked", "linear")

NEEDED = ("A_logs", "Ds", "x_proj", "dt_projs", "dt_projs_bias")
ROLES = {
    "A_logs": "A_logs",
    "Ds": "Ds",
    "dt_projs_bias": "dt_projs_bias",
    "x_proj_weight": "x_proj",
    "x_proj.weight": "x_proj",
    "dt_projs_weight": "dt_projs",
    "dt_projs.weight": "dt_projs",
}


def layers(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any] | None) -> tuple[Layer, ...]:
    """Modules with A_logs and dt_projs_bias. Raises FamilyError if inconsistent or quantised."""
    if architecture(config) not in (None, "vmamba"):
        return ()
    found = {p: f for p, f in mixers(tensors, ROLES, "A_logs").items() if "dt_projs_bias" in f}
    names = layer_names(found)
    return tuple(_layer(names[p], p, f, tensors, config) for p, f in found.items())


def _layer(
    name: str, prefix: str, found: dict[str, str], tensors: Mapping[str, TensorInfo], config: Mapping[str, Any] | None
) -> Layer:
    refuse_quantised(prefix, found, tensors, config)
    complete(prefix, found, NEEDED)
    if prefix + "x_proj_bias" in tensors:
        raise FamilyError("a bias of the projections to dt, B and C is not supported", where=prefix + "x_proj_bias")
    directions, inner = (*tensors[found["dt_projs_bias"]].shape, 0, 0)[:2]
    states = (*tensors[found["A_logs"]].shape, 0, 0)[1]
    rows = tensors[found["dt_projs"]].shape
    rank, linear = rows[-1] if rows else 0, len(rows) == 2
    wide, all_channels = rank + 2 * states, directions * inner
    layout = {
        "dt_projs_bias": "K E",
        "A_logs": f"{all_channels} N",
        "Ds": f"{all_channels}",
        "x_proj": f"{directions * wide} E" if linear else f"K {wide} E",
        "dt_projs": f"{all_channels} R" if linear else "K E R",
    }
    dimensions(tensors, found, layout)
    return Layer(
        name=name,
        family="vmamba",
        variant="linear" if linear else "stacked",
        tensors={role: found[role] for role in NEEDED},
        systems=inner,
        inputs=1,
        outputs=directions,
        slots=states,
        order=states,
        lti=False,
        options={"kind": "mamba-1", "groups": 1, "rank": rank, "norms": "none", "norm_eps": 0.0}
        | {"directions": directions, "exportable": False},
        note="An image's surroundings: the scans can be inspected and diagnosed, not run on a sequence.",
    )


def _stacked(layer: Layer, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Every role with its direction as the first axis."""
    count = layer.options["directions"]
    bias = arrays["dt_projs_bias"]
    return {
        "x_proj": arrays["x_proj"].reshape(count, -1, layer.systems),
        "dt_projs": arrays["dt_projs"].reshape(count, layer.systems, -1),
        "dt_projs_bias": bias,
        "A_logs": arrays["A_logs"].reshape(count, layer.systems, -1),
        "Ds": arrays["Ds"].reshape(count, layer.systems),
    }


def to_mixers(layer: Layer, arrays: Mapping[str, Any]) -> tuple[DiagonalMixer, ...]:
    """One mixer per direction, each of its own unfolding of the image, without projections around it."""
    rank, parts = layer.options["rank"], _stacked(layer, arrays)
    states = layer.slots
    return tuple(
        DiagonalMixer(
            x_dt=parts["x_proj"][k, :rank][None],
            x_b=parts["x_proj"][k, rank : rank + states][None],
            x_c=parts["x_proj"][k, rank + states :][None],
            dt_weight=parts["dt_projs"][k][None],
            dt_bias=parts["dt_projs_bias"][k],
            a_log=parts["A_logs"][k],
            d_skip=parts["Ds"][k],
        )
        for k in range(layer.options["directions"])
    )


def from_mixers(
    layer: Layer, arrays: Mapping[str, np.ndarray], mixers: tuple[Mixer, ...]
) -> dict[str, np.ndarray | None]:
    """All directions' tensors. Raises FamilyError for another number or kind of mixers, or different state sizes."""
    scans = [m for m in mixers if isinstance(m, DiagonalMixer) and m.groups == 1 and m.in_x is None]
    if len(scans) != layer.options["directions"] or len({m.states for m in scans}) != 1:
        raise FamilyError("one scan per direction, all with as many states, is needed", where=layer.name)
    new = {
        "x_proj": np.stack([np.concatenate([m.x_dt[0], m.x_b[0], m.x_c[0]]) for m in scans]),
        "dt_projs": np.stack([m.dt_weight[0] for m in scans]),
        "dt_projs_bias": np.stack([m.dt_bias for m in scans]),
        "A_logs": np.concatenate([m.a_log for m in scans]),
        "Ds": np.concatenate([m.d_skip for m in scans]),
    }
    if layer.variant == "linear":
        new |= {role: new[role].reshape(-1, new[role].shape[-1]) for role in ("x_proj", "dt_projs")}
    return {**changed(layer, arrays, new)}


stack = _single.no_stack


def reduced_config(config: Mapping[str, Any] | None, layer: Layer, slots: int) -> dict[str, Any]:
    """ssm_d_state (VMamba) or d_state."""
    return with_states(config, ("ssm_d_state", "d_state"), slots)


def tiny(variant: str, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """Two blocks with four directions."""
    rng, k, inner, n, r = np.random.default_rng(seed), 4, size.INNER, size.STATES, size.RANK
    tensors = {"patch_embed.0.weight": size.normal(rng, size.WIDTH, 3, 2, 2)}
    for i in range(2):
        block = f"layers.0.blocks.{i}.op."
        mixer = {
            "in_proj.weight": size.normal(rng, 2 * inner, size.WIDTH),
            "conv2d.weight": size.normal(rng, inner, 1, 3, 3),
            "x_proj_weight": size.normal(rng, k, r + 2 * n, inner),
            "dt_projs_weight": size.normal(rng, k, inner, r),
            "dt_projs_bias": size.normal(rng, k, inner, scale=1.0) - 1,
            "A_logs": np.log(rng.uniform(0.2, 4.0, (k * inner, n))).astype(np.float32),
            "Ds": size.normal(rng, k * inner, scale=1.0),
            "out_norm.weight": size.weights(rng, inner),
            "out_proj.weight": size.normal(rng, size.WIDTH, inner),
        }
        if variant == "linear":
            mixer["x_proj.weight"] = mixer.pop("x_proj_weight").reshape(-1, inner)
            mixer["dt_projs.weight"] = mixer.pop("dt_projs_weight").reshape(-1, r)
        tensors |= size.placed(block, mixer)
    return tensors, {"dims": size.WIDTH, "ssm_d_state": n, "ssm_ratio": 2.0}


def forward(layer: Layer, arrays: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """The scans alone: (b, L, K E) -> (b, L, K E).

    x holds, direction after direction, the image as that direction reads it, behind convolution and activation; the
    outputs are what the original turns back and adds.
    """
    parts, outputs = _stacked(layer, arrays), []
    for k in range(layer.options["directions"]):
        own = x[..., k * layer.systems : (k + 1) * layer.systems]
        projected = own @ parts["x_proj"][k].T
        rank = layer.options["rank"]
        low, b, c = np.split(projected, [rank, rank + layer.slots], axis=-1)
        dt = softplus(low @ parts["dt_projs"][k].T + parts["dt_projs_bias"][k])
        outputs.append(diagonal_scan(own, dt, -np.exp(parts["A_logs"][k]), b, c, parts["Ds"][k]))
    return np.concatenate(outputs, axis=-1)
