"""Where the versions of S4 keep what: tensor names, shapes, defaults and signs, and finding layers by them.

Versions (tags of state-spaces/s4): V3 is v3.0.0 (2022-08), V4 is v4.0.0 and later (2023-03). Roles are the same for
both, so that the formulas are written once:

    C, B            output and input weights            A_real, A_imag   parameters of the continuous eigenvalues
    dt              parameter of the steps              D                feedthrough
    P, length       low-rank factor, kernel length the stored C is tied to (full S4 only)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.errors import FamilyError
from ssmtool.families._contract import Constraints, Layer
from ssmtool.families._names import complete, dimensions, groups, layer_names, number, option


@dataclass(frozen=True)
class Layout:
    """One way of storing a layer.

    Attributes:
        version: 3 or 4.
        stored: role -> tensor name below the layer.
        shapes: role -> sizes; K kernel rows, H channels, S stored systems, N slots, R rank, T steps per channel,
            c rows of D.
        diagonal: variant a reduced layer is written in.
        disc: rule the class uses unless told otherwise; "" if it cannot be told (full S4 is always bilinear).
        sign: sign of Im lam against the stored imaginary part.
    """

    version: int
    stored: Mapping[str, str]
    shapes: Mapping[str, str]
    diagonal: str
    disc: str
    sign: int


_V4 = {r: f"kernel.{r}" for r in ("C", "B", "A_real", "A_imag")} | {"dt": "kernel.inv_dt", "D": "D"}
_V3 = {r: f"kernel.kernel.{r}" for r in ("C", "B", "A_imag")} | {"dt": "kernel.kernel.log_dt", "D": "D"}
_SIZES = {"C": "K H N 2", "B": "1 S N 2", "A_real": "S N", "A_imag": "S N", "dt": "H T", "D": "c H"}
_LOW_RANK = {"P": "R S N 2", "length": ""}

LAYOUTS: Mapping[str, Layout] = {
    "v4-diag": Layout(4, _V4, _SIZES, "v4-diag", "zoh", -1),
    "v4-real": Layout(
        4,
        {role: name for role, name in _V4.items() if role != "A_imag"},
        {"C": "K H N", "B": "1 S N", "A_real": "S N", "dt": "H T", "D": "c H"},
        "v4-real",
        "zoh",
        -1,
    ),
    "v4-dplr": Layout(4, _V4 | {"P": "kernel.P", "length": "kernel.l_kernel"}, _SIZES | _LOW_RANK, "v4-diag", "", -1),
    "v3-diag": Layout(
        3, _V3 | {"A_real": "kernel.kernel.inv_A_real"}, _SIZES | {"B": "S N 2", "dt": "H"}, "v3-diag", "bilinear", 1
    ),
    "v3-nplr": Layout(
        3,
        _V3
        | {
            "A_real": "kernel.kernel.inv_w_real",
            "A_imag": "kernel.kernel.w_imag",
            "P": "kernel.kernel.P",
            "length": "kernel.kernel.L",
        },
        _SIZES | {"dt": "H"} | _LOW_RANK,
        "v3-diag",
        "",
        1,
    ),
}

# V3's diagonal class registers the initial eigenvalues too and never reads them, but strict loading wants them there.
SPARE = "kernel.kernel.A"
# H3 has the names of a V3 diagonal kernel beside a second, shift kernel; its multiplicative block is not a V3 layer.
_H3 = ("ssm_k_kernel.", "ssm_k_D")
_DIRECTION_NOTE = "Backward rows act on u[t+1+j]."


def find_layers(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any] | None) -> tuple[Layer, ...]:
    """Layers of every version. Raises FamilyError for missing tensors and for shapes that do not fit together."""
    found = {}
    for variant in LAYOUTS:
        anchor = LAYOUTS[variant].stored["A_real"]
        for prefix in groups(tensors, anchor, ()):
            if _belongs(tensors, prefix, variant):
                found[prefix] = variant
    ordered = _in_order(tensors, found)
    names = layer_names(ordered)
    return tuple(_layer(names[p], p, found[p], tensors, config) for p in ordered)


def _in_order(tensors: Mapping[str, TensorInfo], found: Mapping[str, str]) -> list[str]:
    """Prefixes in the order in which the checkpoint has them."""
    place = {name: i for i, name in enumerate(tensors)}
    return sorted(found, key=lambda prefix: place[prefix + LAYOUTS[found[prefix]].stored["A_real"]])


def _belongs(tensors: Mapping[str, TensorInfo], prefix: str, variant: str) -> bool:
    """Among layouts with the same anchor, the one whose optional tensors are there."""
    if any(name.startswith(prefix + h3) for name in tensors for h3 in _H3):
        return False
    if LAYOUTS[variant].version == 3:
        return True
    low_rank = any(prefix + LAYOUTS["v4-dplr"].stored[role] in tensors for role in ("P", "length"))
    real = not low_rank and prefix + _V4["A_imag"] not in tensors
    return variant == ("v4-dplr" if low_rank else "v4-real" if real else "v4-diag")


def _layer(
    name: str, prefix: str, variant: str, tensors: Mapping[str, TensorInfo], config: Mapping[str, Any] | None
) -> Layer:
    layout = LAYOUTS[variant]
    parts = {role: prefix + stored for role, stored in layout.stored.items() if prefix + stored in tensors}
    complete(prefix, {layout.stored[role]: full for role, full in parts.items()}, layout.stored.values())
    size = dimensions(tensors, parts, layout.shapes)
    H, S, N, K, rows = size["H"], size["S"], size["N"], size["K"], size["c"]
    if H % S or size.get("T", 1) not in (1, N) or rows not in (K, K // 2 if K % 2 == 0 else K):
        shapes = ", ".join(f"{full} {tensors[full].shape}" for full in parts.values())
        raise FamilyError(
            f"sizes do not fit together: {H} channels, {S} stored systems, {size.get('T', 1)} steps per channel, "
            f"{N} slots, {K} kernel rows, {rows} rows of D: {shapes}",
            where=name,
            remedy="Systems must divide channels, steps be 1 or one per slot, kernel rows be 1 or 2 per row of D.",
        )
    full_s4 = "P" in parts
    chosen = option(config, "disc")
    directions = K // rows
    options = {
        "disc": "bilinear" if full_s4 else chosen or layout.disc,
        "export_disc": chosen or LAYOUTS[layout.diagonal].disc,
        "real_transform": option(config, "real_transform", "real_type", default="exp"),
        "imag_transform": option(config, "imag_transform", default="none") if layout.version == 4 else "none",
        "dt_transform": option(config, "dt_transform", default="exp") if layout.version == 4 else "exp",
        "dt_fast": bool(option(config, "dt_fast", default=False)) and layout.version == 4,
        "bandlimit": None if option(config, "bandlimit") is None else number(config, "bandlimit", default=0.0),
        "n_ssm": S,
        "rank": size.get("R", 0),
        "directions": directions,
        "reverse_lag": 1,
        "prefix": prefix,
    }
    notes = [_DIRECTION_NOTE] if directions == 2 else []
    if not full_s4 and chosen is None:
        notes.append(
            f"The discretisation is not stored; the class default {layout.disc} is assumed (set disc to change)."
        )
    if full_s4:
        notes.append(f"A reduced layer is diagonal: build the model with mode='diag' ({layout.diagonal}) to load it.")
    if S < H:
        notes.append(f"A reduced layer has poles of its own per channel: build it with n_ssm={H}.")
    return Layer(
        name=name,
        family="s4",
        variant=variant,
        tensors=parts,
        systems=H,
        inputs=1,
        outputs=K,
        slots=N,
        order=N if variant == "v4-real" else 2 * N,
        options=options,
        note=" ".join(notes),
        constraints=Constraints(
            real_poles=variant == "v4-real", export=layout.diagonal if layout.diagonal != variant else ""
        ),
    )
