"""The tensors of a Mamba-1 mixer, which six families share, and their map to a DiagonalMixer and back.

    [x ; z] = in_proj u,   x = silu(conv1d x),   [low ; B ; C] = x_proj x,   dt = softplus(dt_proj low + bias)
    h = exp(-exp(A_log) dt) h + dt B x,   y = (C h + D x) silu(z),   out_proj y

Some families normalise low, B and C by their root mean square, with weights (roles dt_norm, b_norm, c_norm) or without.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.errors import FamilyError
from ssmtool.families._contract import Layer
from ssmtool.families._mixers import changed
from ssmtool.families._names import complete, dimensions
from ssmtool.families._recurrence import causal_convolution, diagonal_scan, rms_norm, silu, softplus
from ssmtool.selective.mixers import DiagonalMixer, Mixer

NEEDED = (
    "in_proj.weight",
    "conv1d.weight",
    "x_proj.weight",
    "dt_proj.weight",
    "dt_proj.bias",
    "A_log",
    "D",
    "out_proj.weight",
)
OPTIONAL = ("in_proj.bias", "conv1d.bias", "out_proj.bias")
ROLES = {role: role for role in (*NEEDED, *OPTIONAL)}
NORMS = ("dt_norm", "b_norm", "c_norm")
# Siblings of A_log and x_proj whose convolution is not a causal one over x alone.
OTHER = ("conv1d_x.weight", "conv2d.weight", "A_b_log")


def is_mamba1(prefix: str, found: Mapping[str, str], tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether the module at `prefix` is a plain Mamba-1 mixer, its weights packed or not."""
    if len(tensors[found["A_log"]].shape) != 2 or any(prefix + other in tensors for other in OTHER):
        return False
    return any(prefix + name in tensors for name in ("x_proj.weight", "x_proj.qweight", "x_proj.weight_packed"))


def sizes(
    prefix: str, found: Mapping[str, str], tensors: Mapping[str, TensorInfo], needed: tuple[str, ...] = NEEDED
) -> dict[str, int]:
    """E, N, R, K, d of one mixer. Raises FamilyError for missing tensors and shapes that do not fit."""
    complete(prefix, found, needed)
    shape, rows = tensors[found["A_log"]].shape, tensors[found["x_proj.weight"]].shape[:1]
    inner, states = shape if len(shape) == 2 else (0, 0)
    rank = max(sum(rows) - 2 * states, 0)
    layout = {
        "A_log": "E N",
        "in_proj.weight": f"{2 * inner} d",
        "in_proj.bias": f"{2 * inner}",
        "conv1d.weight": "E 1 K",
        "conv1d.bias": "E",
        "x_proj.weight": f"{rank + 2 * states} E",
        "dt_proj.weight": f"E {rank}",
        "dt_proj.bias": "E",
        "D": "E",
        "out_proj.weight": "d E",
        "out_proj.bias": "d",
        "dt_norm": f"{rank}",
        "b_norm": "N",
        "c_norm": "N",
    }
    found_sizes = dimensions(tensors, found, layout)
    if rank == 0:
        raise FamilyError(
            f"no rows for dt in shape {tensors[found['x_proj.weight']].shape}", where=found["x_proj.weight"]
        )
    return found_sizes | {"R": rank}


def layer(
    family: str,
    variant: str,
    name: str,
    prefix: str,
    found: Mapping[str, str],
    tensors: Mapping[str, TensorInfo],
    *,
    eps: float = 0.0,
    weightless: bool = False,
    note: str = "",
) -> Layer:
    """A Layer of one mixer.

    Args:
        found: role -> tensor name.
        eps: of the norms on low, B and C.  weightless: those norms are there without tensors.

    Raises:
        FamilyError: missing or inconsistent tensors.
    """
    size = sizes(prefix, found, tensors)
    norms = [role for role in NORMS if role in found]
    if norms and len(norms) < len(NORMS):
        raise FamilyError(f"only {', '.join(found[r] for r in norms)} of the norms on dt, B and C", where=name)
    return Layer(
        name=name,
        family=family,
        variant=variant,
        tensors={role: found[role] for role in (*NEEDED, *OPTIONAL, *NORMS) if role in found},
        systems=size["E"],
        inputs=1,
        outputs=1,
        slots=size["N"],
        order=size["N"],
        lti=False,
        options={
            "kind": "mamba-1",
            "groups": 1,
            "rank": size["R"],
            "taps": size["K"],
            "norms": "weights" if norms else "weightless" if weightless else "none",
            "norm_eps": eps,
            "exportable": True,
        },
        note=note,
    )


def to_mixer(layer: Layer, arrays: Mapping[str, Any]) -> DiagonalMixer:
    """Indexing and reshaping alone, so that arrays of any kind go through."""
    a_log, rows = arrays["A_log"], arrays["x_proj.weight"]
    inner, states = a_log.shape
    rank, bias = layer.options["rank"], arrays.get("in_proj.bias")
    dt_norm, b_norm, c_norm = (arrays.get(role) for role in NORMS)
    if layer.options["norms"] == "weightless":
        dt_norm, b_norm, c_norm = (rows[:size, 0] * 0 + 1 for size in (rank, states, states))
    return DiagonalMixer(
        x_dt=rows[:rank][None],
        x_b=rows[rank : rank + states][None],
        x_c=rows[rank + states :][None],
        dt_weight=arrays["dt_proj.weight"][None],
        dt_bias=arrays["dt_proj.bias"],
        a_log=a_log,
        d_skip=arrays["D"],
        in_x=arrays["in_proj.weight"][:inner],
        in_z=arrays["in_proj.weight"][inner:],
        in_x_bias=None if bias is None else bias[:inner],
        in_z_bias=None if bias is None else bias[inner:],
        conv=arrays["conv1d.weight"][:, 0],
        conv_bias=arrays.get("conv1d.bias"),
        out=arrays["out_proj.weight"],
        out_bias=arrays.get("out_proj.bias"),
        dt_norm=dt_norm,
        b_norm=b_norm,
        c_norm=c_norm,
        norm_eps=layer.options["norm_eps"],
    )


def from_mixer(layer: Layer, arrays: Mapping[str, np.ndarray], mixer: Mixer) -> dict[str, np.ndarray]:
    """The tensors that differ from the stored ones. Raises FamilyError for a mixer these tensors cannot hold."""
    if not isinstance(mixer, DiagonalMixer) or mixer.groups != 1 or mixer.in_x is None:
        raise FamilyError("only a Mamba-1 mixer with one group and its input projection fits", where=layer.name)
    new: dict[str, Any] = {
        "in_proj.weight": np.concatenate([mixer.in_x, mixer.in_z]),
        "in_proj.bias": None if mixer.in_x_bias is None else np.concatenate([mixer.in_x_bias, mixer.in_z_bias]),
        "conv1d.weight": mixer.conv[:, None],
        "conv1d.bias": mixer.conv_bias,
        "x_proj.weight": np.concatenate([mixer.x_dt[0], mixer.x_b[0], mixer.x_c[0]]),
        "dt_proj.weight": mixer.dt_weight[0],
        "dt_proj.bias": mixer.dt_bias,
        "A_log": mixer.a_log,
        "D": mixer.d_skip,
        "out_proj.weight": mixer.out,
        "out_proj.bias": mixer.out_bias,
    }
    norms = {"dt_norm": mixer.dt_norm, "b_norm": mixer.b_norm, "c_norm": mixer.c_norm}
    if (layer.options["norms"] == "none") != all(w is None for w in norms.values()):
        raise FamilyError("the new mixer's norms on dt, B and C are not the layer's", where=layer.name)
    new |= _without_weights(layer, mixer) if layer.options["norms"] == "weightless" else norms
    return changed(layer, arrays, new)


def _without_weights(layer: Layer, mixer: DiagonalMixer) -> dict[str, Any]:
    """Tensors that take the norms' weights where there is no place for them.

    The step's weight goes into dt_proj. Those of B and C act together on what the states add to y: a common factor of
    it goes into out_proj, and D gives it back.
    """
    factors = mixer.b_norm * mixer.c_norm
    if not np.allclose(factors, factors[0], rtol=1e-12, atol=0):
        raise FamilyError("different norm weights for different states: the norms have no weights", where=layer.name)
    return {
        "dt_proj.weight": mixer.dt_weight[0] * mixer.dt_norm,
        "out_proj.weight": mixer.out * factors[0],
        "D": mixer.d_skip / factors[0],
    }


def forward(layer: Layer, arrays: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """(b, L, d) -> (b, L, d), step by step from the stored tensors."""
    inner, states = arrays["A_log"].shape
    both = x @ arrays["in_proj.weight"].T + arrays.get("in_proj.bias", 0.0)
    u, z = both[..., :inner], both[..., inner:]
    u = silu(causal_convolution(u, arrays["conv1d.weight"], arrays.get("conv1d.bias")))
    return gated_scan(layer, arrays, u, z, states) @ arrays["out_proj.weight"].T + arrays.get("out_proj.bias", 0.0)


def gated_scan(layer: Layer, arrays: Mapping[str, np.ndarray], u: np.ndarray, z: np.ndarray, states: int) -> np.ndarray:
    """What x_proj, dt_proj, A_log and D do to the convolved input u (b, L, E), times silu(z)."""
    projected = u @ arrays["x_proj.weight"].T
    low, b, c = np.split(projected, [projected.shape[-1] - 2 * states, projected.shape[-1] - states], axis=-1)
    if layer.options["norms"] != "none":
        eps = layer.options["norm_eps"]
        low, b, c = (rms_norm(v, arrays.get(r, 1.0), eps) for v, r in zip((low, b, c), NORMS, strict=True))
    dt = softplus(low @ arrays["dt_proj.weight"].T + arrays["dt_proj.bias"])
    return diagonal_scan(u, dt, -np.exp(arrays["A_log"]), b, c, arrays["D"]) * silu(z)
