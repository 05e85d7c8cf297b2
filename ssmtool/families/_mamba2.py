"""The tensors of a Mamba-2 mixer, which seven families share, and their map to a ScalarMixer and back.

    [z ; x ; B ; C ; dt] = in_proj u,   [x ; B ; C] = silu(conv1d [x ; B ; C]),   dt = clamp(softplus(dt + dt_bias))
    h = exp(-exp(A_log) dt) h + dt x B^T,   y = h C + D x,   out_proj norm(y silu(z))

Layers with d_ssm smaller than the inner width have two more blocks of rows in front, z0 and x0: silu(z0) x0 is put
before y. A projected layer has project_b and project_c (G, r, N) beside its own tensors, and its scan runs with r
states on project_b B and project_c C. The shapes tell G N but neither G nor N, which come from the configuration like
everything in `Facts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isinf
from typing import Any

import numpy as np

from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.errors import FamilyError
from ssmtool.families._contract import Layer
from ssmtool.families._mixers import changed
from ssmtool.families._names import complete, dimensions
from ssmtool.families._recurrence import causal_convolution, head_scan, rms_norm, silu, softplus
from ssmtool.selective.mixers import Mixer, ScalarMixer

NEEDED = ("in_proj.weight", "conv1d.weight", "A_log", "D", "dt_bias", "out_proj.weight")
OPTIONAL = ("in_proj.bias", "conv1d.bias", "norm.weight", "out_proj.bias")
PROJECTORS = ("project_b", "project_c")
ROLES = {role: role for role in (*NEEDED, *OPTIONAL, *PROJECTORS)}
BLOCKS = ("mlp", "z", "x", "b", "c", "dt")


@dataclass(frozen=True)
class Facts:
    """What no tensor of a Mamba-2 mixer tells.

    Attributes:
        groups, states: G, N.
        eps: of the gated norm.  norm_groups: it is taken over E / norm_groups channels.  norm_before_gate.
        dt_min, dt_max: clamp on dt after its softplus.
        scale_in: multiplier of the mixer's input.  scale_rows: of z, x, B, C, dt as they leave in_proj.
        scale_out: of the mixer's output.
        inner: E where the configuration gives it (d_ssm), 0 where it is the whole inner width.
    """

    groups: int
    states: int
    eps: float = 1e-5
    norm_groups: int = 1
    norm_before_gate: bool = False
    dt_min: float = 0.0
    dt_max: float = inf
    scale_in: float = 1.0
    scale_rows: tuple[float, ...] = (1.0,) * 5
    scale_out: float = 1.0
    inner: int = 0


def is_mamba2(prefix: str, found: Mapping[str, str], tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether the module at `prefix` is a Mamba-2 mixer, its weights packed or not."""
    if len(tensors[found["A_log"]].shape) != 1 or not {"conv1d.weight", "D", "dt_bias"} <= set(found):
        return False
    return any(prefix + name in tensors for name in ("in_proj.weight", "in_proj.qweight", "in_proj.weight_packed"))


def width_of_groups(found: Mapping[str, str], tensors: Mapping[str, TensorInfo]) -> int:
    """G N from the shapes; 0 if they do not give one."""
    rows, heads, columns = (
        (tensors[found[role]].shape or (0,))[axis]
        for role, axis in (("in_proj.weight", 0), ("A_log", 0), ("out_proj.weight", -1))
    )
    return max(rows - 2 * columns - heads, 0) // 2


def layer(
    family: str,
    variant: str,
    name: str,
    prefix: str,
    found: Mapping[str, str],
    tensors: Mapping[str, TensorInfo],
    facts: Facts,
    note: str = "",
) -> Layer:
    """A Layer of one mixer. Raises FamilyError for missing tensors, and shapes that do not fit."""
    complete(prefix, found, NEEDED)
    if prefix + "init_states" in tensors:
        raise FamilyError("a learnt initial state is not supported", where=prefix + "init_states")
    heads, wide = (tensors[found["A_log"]].shape or (0,))[0], facts.groups * facts.states
    columns, channels = (tensors[found[r]].shape for r in ("out_proj.weight", "conv1d.weight"))
    total = columns[-1] if columns else 0
    inner = facts.inner or total
    per_channel = tensors[found["D"]].shape != (heads,)
    layout = {
        "A_log": "H",
        "dt_bias": "H",
        "D": f"{inner}" if per_channel else "H",
        "in_proj.weight": f"{2 * total + 2 * wide + heads} d",
        "in_proj.bias": f"{2 * total + 2 * wide + heads}",
        "conv1d.weight": f"{inner + 2 * wide} 1 K",
        "conv1d.bias": f"{inner + 2 * wide}",
        "norm.weight": f"{inner}",
        "out_proj.weight": f"d {total}",
        "out_proj.bias": "d",
        "project_b": f"{facts.groups} r {facts.states}",
        "project_c": f"{facts.groups} r {facts.states}",
    }
    if len(found.keys() & set(PROJECTORS)) == 1:
        raise FamilyError("only one of project_b and project_c", where=name)
    try:
        size = dimensions(tensors, found, layout)
    except FamilyError as error:
        known = f"With {facts.groups} groups of {facts.states} states"
        raise FamilyError(error.what, where=error.where, remedy=f"{known}: {error.remedy}") from error
    if not (total and wide) or inner > total or inner % heads or heads % facts.groups or inner % facts.norm_groups:
        shapes = f"in_proj {tensors[found['in_proj.weight']].shape}, conv1d {channels}, {heads} heads"
        raise FamilyError(f"{inner} channels do not divide into heads and {facts.groups} groups ({shapes})", where=name)
    return Layer(
        name=name,
        family=family,
        variant=variant,
        tensors={role: found[role] for role in (*NEEDED, *OPTIONAL, *PROJECTORS) if role in found},
        systems=inner,
        inputs=1,
        outputs=1,
        slots=size.get("r", facts.states),
        order=size.get("r", facts.states),
        lti=False,
        options={
            "kind": "mamba-2",
            "groups": facts.groups,
            "states": facts.states,
            "heads": heads,
            "head_dim": inner // heads,
            "taps": size["K"],
            "norm_eps": facts.eps,
            "norm_groups": facts.norm_groups,
            "norm_before_gate": facts.norm_before_gate,
            "dt_min": facts.dt_min,
            "dt_max": None if isinf(facts.dt_max) else facts.dt_max,
            "scale_in": facts.scale_in,
            "scale_rows": list(facts.scale_rows),
            "scale_out": facts.scale_out,
            "exportable": True,
        },
        note=note,
    )


def _blocks(layer: Layer, rows: int) -> dict[str, slice]:
    """Rows of in_proj by block; `mlp` is empty unless d_ssm is smaller than the inner width."""
    options = layer.options
    inner, wide, heads = layer.systems, options["groups"] * options["states"], options["heads"]
    widths = (rows - 2 * inner - 2 * wide - heads, inner, inner, wide, wide, heads)
    starts = [sum(widths[:i]) for i in range(len(widths))]
    return {b: slice(start, start + width) for b, start, width in zip(BLOCKS, starts, widths, strict=True)}


def _scaled(x: Any, factor: float) -> Any:
    return x if factor == 1 else x * factor


def to_mixer(layer: Layer, arrays: Mapping[str, Any]) -> ScalarMixer:
    """Indexing, reshaping and multiplication alone, so that arrays of any kind go through."""
    options, rows, bias = layer.options, arrays["in_proj.weight"], arrays.get("in_proj.bias")
    blocks = _blocks(layer, rows.shape[0])
    factors = dict(zip(BLOCKS[1:], options["scale_rows"], strict=True))
    parts = {b: _scaled(rows[blocks[b]], options["scale_in"] * f) for b, f in factors.items()}
    start, mlp_bias = blocks["mlp"].stop, None
    if bias is not None:
        mlp_bias, bias = bias[:start] if start else None, bias[start:] * 1
        for b, f in factors.items():
            bias[blocks[b].start - start : blocks[b].stop - start] *= f
    out_bias = arrays.get("out_proj.bias")
    return ScalarMixer(
        in_z=parts["z"],
        in_x=parts["x"],
        in_b=parts["b"],
        in_c=parts["c"],
        in_dt=parts["dt"],
        in_bias=bias,
        in_mlp=_scaled(rows[:start], options["scale_in"]) if start else None,
        in_mlp_bias=mlp_bias,
        conv=arrays["conv1d.weight"][:, 0],
        conv_bias=arrays.get("conv1d.bias"),
        a_log=arrays["A_log"],
        dt_bias=arrays["dt_bias"],
        d_skip=arrays["D"].reshape(options["heads"], -1),
        out=_scaled(arrays["out_proj.weight"], options["scale_out"]),
        out_bias=None if out_bias is None else _scaled(out_bias, options["scale_out"]),
        groups=options["groups"],
        norm=arrays.get("norm.weight"),
        norm_groups=options["norm_groups"],
        norm_before_gate=options["norm_before_gate"],
        norm_eps=options["norm_eps"],
        dt_min=options["dt_min"],
        dt_max=inf if options["dt_max"] is None else options["dt_max"],
        project_b=arrays.get("project_b"),
        project_c=arrays.get("project_c"),
    )


def from_mixer(layer: Layer, arrays: Mapping[str, np.ndarray], mixer: Mixer) -> dict[str, np.ndarray]:
    """The tensors that differ from the stored ones. Raises FamilyError for a mixer these tensors cannot hold."""
    if not isinstance(mixer, ScalarMixer) or mixer.groups != layer.options["groups"]:
        raise FamilyError("only a Mamba-2 mixer with the layer's groups fits", where=layer.name)
    if mixer.project_b is not None or mixer.project_c is not None or "project_b" in layer.tensors:
        raise FamilyError(
            "a mixer whose scan runs on projected B and C has no place in the original's tensors", where=layer.name
        )
    old, options = to_mixer(layer, arrays), layer.options
    rows, biases = _input_rows(layer, arrays, old, mixer)
    new: dict[str, Any] = {
        "in_proj.weight": rows,
        "in_proj.bias": biases,
        "conv1d.weight": mixer.conv[:, None],
        "conv1d.bias": mixer.conv_bias,
        "A_log": mixer.a_log,
        "dt_bias": mixer.dt_bias,
        "D": mixer.d_skip.reshape(-1),
        "norm.weight": mixer.norm,
        "out_proj.weight": _divided(mixer.out, old.out, arrays["out_proj.weight"], options["scale_out"]),
    }
    if mixer.out_bias is not None:
        new["out_proj.bias"] = _divided(mixer.out_bias, old.out_bias, arrays["out_proj.bias"], options["scale_out"])
    return changed(layer, arrays, new)


def _input_rows(
    layer: Layer, arrays: Mapping[str, np.ndarray], old: ScalarMixer, mixer: ScalarMixer
) -> tuple[np.ndarray, np.ndarray | None]:
    """in_proj's rows and biases with the multipliers taken out, block by block."""
    stored, biases = arrays["in_proj.weight"], arrays.get("in_proj.bias")
    blocks, scale_in = _blocks(layer, stored.shape[0]), layer.options["scale_in"]
    rows, shifts, start = [], [], 0
    for block, factor in zip(BLOCKS, (1.0, *layer.options["scale_rows"]), strict=True):
        before, after, own = getattr(old, "in_" + block), getattr(mixer, "in_" + block), blocks[block]
        if after is None:
            continue
        rows.append(_divided(after, before, stored[own], scale_in * factor))
        if mixer.in_bias is None or biases is None:
            continue
        if block == "mlp":
            shifts.append(mixer.in_mlp_bias)
            continue
        given = old.in_bias[own.start - blocks["mlp"].stop : own.stop - blocks["mlp"].stop]
        shifts.append(_divided(mixer.in_bias[start : start + len(after)], given, biases[own], factor))
        start += len(after)
    return np.concatenate(rows), np.concatenate(shifts) if shifts else mixer.in_bias


def _divided(new: np.ndarray, old: np.ndarray, stored: np.ndarray, factor: float) -> np.ndarray:
    """new / factor, and the stored array itself where nothing changed: (w f) / f need not be w."""
    return stored if np.array_equal(new, old) else new / factor


def forward(layer: Layer, arrays: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """(b, L, d) -> (b, L, d), step by step from the stored tensors; norm placement and multipliers from the options."""
    options, inner, heads = layer.options, layer.systems, layer.options["heads"]
    wide = options["groups"] * options["states"]
    mixed = (x * options["scale_in"]) @ arrays["in_proj.weight"].T + arrays.get("in_proj.bias", 0.0)
    rest = mixed.shape[-1] - 2 * inner - 2 * wide - heads
    z0, x0, z, xbc, dt = np.split(mixed, np.cumsum([rest // 2, rest // 2, inner, inner + 2 * wide]), axis=-1)
    z_scale, x_scale, b_scale, c_scale, dt_scale = options["scale_rows"]
    multipliers = np.concatenate([np.full(n, s) for n, s in ((inner, x_scale), (wide, b_scale), (wide, c_scale))])
    z, xbc, dt = z * z_scale, xbc * multipliers, dt * dt_scale
    xbc = silu(causal_convolution(xbc, arrays["conv1d.weight"], arrays.get("conv1d.bias")))
    u, b, c = np.split(xbc, [inner, inner + wide], axis=-1)
    dt = np.clip(softplus(dt + arrays["dt_bias"]), options["dt_min"], options["dt_max"])
    b, c = (part.reshape(*part.shape[:2], options["groups"], -1) for part in (b, c))
    if "project_b" in arrays:
        b, c = (np.einsum("blgn,grn->blgr", x, arrays[p]) for x, p in zip((b, c), PROJECTORS, strict=True))
    u = u.reshape(*u.shape[:2], heads, -1)
    d = arrays["D"].reshape(heads, -1)
    y = head_scan(u, dt, -np.exp(arrays["A_log"]), b, c, d).reshape(*x.shape[:2], inner)
    y = np.concatenate([silu(z0) * x0, _gated(layer, arrays, y, z)], axis=-1)
    return options["scale_out"] * (y @ arrays["out_proj.weight"].T + arrays.get("out_proj.bias", 0.0))


def _gated(layer: Layer, arrays: Mapping[str, np.ndarray], y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """The gate, and the grouped norm before or after it."""
    if "norm.weight" not in arrays:
        return y * silu(z)
    before = layer.options["norm_before_gate"]
    y = y if before else y * silu(z)
    grouped = y.reshape(*y.shape[:2], layer.options["norm_groups"], -1)
    y = rms_norm(grouped, 1.0, layer.options["norm_eps"]).reshape(y.shape) * arrays["norm.weight"]
    return y * silu(z) if before else y
