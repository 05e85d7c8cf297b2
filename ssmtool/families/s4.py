"""S4 and S4D of the state-spaces/s4 repository, V3 (2022) and V4 (2023 on): H systems with one input and K outputs.

    lam = -T(A_real) - i A_imag (V4; + i A_imag in V3)      dt = exp(dt)      T = exp unless configured otherwise
    diagonal   K_h[j] = 2 Re sum_n C_hn B_hn bbar_hn exp(a_hn)^j         zero-order hold (V4) or bilinear (V3)
    real (V4)  the same with real parameters: N real states, still times 2
    full S4    A = diag(lam) - P P*, always bilinear, C tied to a kernel length: see _s4_dplr

N = d_state / 2 slots (real: d_state). S <= H systems are stored, channel h uses h mod S. Twice as many kernel rows
as rows of D mean two directions, the second acting on u[t+1+j]. disc, the transforms and bandlimit are not stored:
the configuration is asked, else the class defaults hold.

A reduced layer has poles of its own in every channel. Full S4 goes back as the diagonal layout of the same version.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.errors import FamilyError
from ssmtool.families import _s4_dplr, _transforms
from ssmtool.families._arrays import array_namespace, as_complex, zeros
from ssmtool.families._contract import Layer
from ssmtool.families._convolution import convolve
from ssmtool.families._half_slots import changed_feedthrough, from_canonical, to_canonical
from ssmtool.families._names import resized, to_complex, to_pairs
from ssmtool.families._s4_layouts import LAYOUTS, SPARE, find_layers
from ssmtool.families._s4_tiny import VARIANTS, tiny
from ssmtool.lti.systems import DiagonalSystem, System

__all__ = [
    "REFERENCE",
    "STEPS",
    "SUMMARY",
    "VARIANTS",
    "forward",
    "from_system",
    "layers",
    "reduced_config",
    "tiny",
    "to_system",
]

SUMMARY = "S4 and S4D (V3, V4): diagonal, real diagonal, diagonal plus low rank; one or two directions"
STEPS = ("dt",)
REFERENCE = "Gu, Goel, Ré, ICLR 2022, arXiv:2111.00396; Gu et al., arXiv:2206.11893; state-spaces/s4 v3.0.0, v4.0.0"


def layers(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any] | None) -> tuple[Layer, ...]:
    """The V3 and V4 layers of a checkpoint. Raises FamilyError for missing tensors or inconsistent shapes."""
    return find_layers(tensors, config)


def to_system(layer: Layer, arrays: Mapping[str, np.ndarray]) -> System:
    """Canonical system; diagonal with B = 1, or dense for full S4.

    Raises:
        FamilyError: a discretisation that depends on the sequence length (disc = "dss"), or an unknown one.
        UnstableError: full S4 whose C cannot be recovered.
    """
    q = _parameters(layer, arrays)
    if "P" in arrays:
        return _s4_dplr.dense(q, arrays["D"], layer.name)
    return to_canonical(_rule(layer), q.lam, q.dt, q.C * q.B, arrays["D"], real=layer.variant == "v4-real")


def from_system(layer: Layer, arrays: Mapping[str, np.ndarray], system: DiagonalSystem) -> dict[str, np.ndarray | None]:
    """Tensors of the diagonal layout of the layer's version for H systems with any number of slots.

    B becomes 1 and C takes its place. Steps stay; where each slot had its own, all get their channel's geometric mean.

    Raises:
        FamilyError: a value that the configured transforms or the band limit cannot express, or complex poles for
            the real variant.
    """
    layout = LAYOUTS[LAYOUTS[layer.variant].diagonal]
    disc = layer.options["export_disc"]
    if disc not in ("zoh", "bilinear"):
        raise FamilyError(f"disc={disc!r} cannot be written", where=layer.name)
    steps = np.exp(np.mean(np.log(_steps(layer, arrays)), axis=1, keepdims=True))
    if layer.options["imag_transform"] != "none":
        system = _below_axis(system)
    lam, C = from_canonical(disc, system, steps)
    new: dict[str, np.ndarray | None] = {}
    if layer.variant == "v4-real":
        _require_real(layer, system, lam)
        new |= {"C": np.real(C), "B": np.ones((1, *lam.shape))}
    else:
        _require_in_band(layer, lam, C, steps)
        B = to_pairs(np.ones(lam.shape, dtype=np.complex128))
        new |= {"C": to_pairs(C), "B": B if layout.version == 3 else B[None]}
        imag = layout.sign * np.imag(lam)
        kind = layer.options["imag_transform"]
        if kind != "none":  # a real pole has no logarithm of its angle: an angle of 1e-9 per step stands for it
            imag = np.maximum(imag, 1.0001e-4 if kind == "relu" else 1e-9 / steps)
        new["A_imag"] = _transforms.invert(kind, imag, "|Im A|")
    new["A_real"] = _transforms.invert(layer.options["real_transform"], -np.real(lam), "-Re A")
    if arrays["dt"].shape[1:] not in ((), (1,)):
        stored = _transforms.invert(layer.options["dt_transform"], steps, "dt")
        stored = np.arcsinh(stored) if layer.options["dt_fast"] else stored
        new["dt"] = np.broadcast_to(stored, lam.shape).copy()
    new |= changed_feedthrough(layer.tensors["D"], arrays["D"], system)
    return _renamed(layer, new, lam)


def _renamed(layer: Layer, new: dict[str, np.ndarray | None], lam: np.ndarray) -> dict[str, np.ndarray | None]:
    """Move what the diagonal layout keeps under another name there, drop what it lacks, add the spare A of V3."""
    old, layout, prefix = LAYOUTS[layer.variant], LAYOUTS[LAYOUTS[layer.variant].diagonal], layer.options["prefix"]
    out = dict(new)
    for role, stored in old.stored.items():
        if role not in layout.stored:
            out[role] = None
        elif layout.stored[role] != stored:
            out[prefix + layout.stored[role]], out[role] = out[role], None
    if layout.version == 3:
        out[prefix + SPARE] = to_pairs(lam)
    return out


def _rule(layer: Layer) -> str:
    """The discretisation. Raises FamilyError unless it is one whose kernel does not depend on the length."""
    disc = layer.options["disc"]
    if disc not in ("zoh", "bilinear"):
        raise FamilyError(
            f"disc={disc!r} is not a discretisation with one kernel for all lengths",
            where=layer.name,
            remedy="zoh and bilinear are supported.",
        )
    return disc


def _steps(layer: Layer, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """dt, (H, 1) or (H, N) float64."""
    xp = array_namespace(arrays["dt"])
    stored = xp.reshape(arrays["dt"], (layer.systems, -1))
    stored = xp.sinh(stored) if layer.options["dt_fast"] else stored
    return _transforms.apply(layer.options["dt_transform"], stored)


def _parameters(layer: Layer, arrays: Mapping[str, np.ndarray]) -> _s4_dplr.Parameters:
    """Stored tensors -> values, rows tiled to H channels, frequencies beyond the band limit muted."""
    layout, N = LAYOUTS[layer.variant], layer.slots
    copies = layer.systems // layer.options["n_ssm"]

    def value(role: str) -> np.ndarray:
        stored = arrays[role]
        return stored if layout.shapes[role].split()[-1] != "2" else to_complex(stored)

    xp = array_namespace(arrays["A_real"])
    floor = 0.0 if layer.variant == "v3-nplr" else 1e-4
    lam = as_complex(-_transforms.apply(layer.options["real_transform"], arrays["A_real"], floor))
    if "A_imag" in arrays:
        lam = lam + 1j * layout.sign * _transforms.apply(layer.options["imag_transform"], arrays["A_imag"])
    lam, dt, C = xp.tile(lam, (copies, 1)), _steps(layer, arrays), value("C")
    if layer.options["bandlimit"] is not None:
        C = C * (dt * xp.abs(xp.imag(lam)) / (2 * np.pi) < layer.options["bandlimit"] / 2)
    return _s4_dplr.Parameters(
        lam=lam,
        dt=dt,
        B=xp.tile(xp.reshape(value("B"), (-1, N)), (copies, 1)),
        C=C,
        P=xp.tile(value("P"), (1, copies, 1)) if "P" in arrays else zeros((0, layer.systems, N), lam),
        length=int(arrays["length"]) if "length" in arrays else 0,
    )


def _below_axis(system: DiagonalSystem) -> DiagonalSystem:
    """Of each pair the member with Im a <= 0, where the imaginary part is stored through a positive transform."""
    flip = np.imag(system.a) > 0
    return DiagonalSystem(
        a=np.where(flip, system.a.conj(), system.a),
        B=np.where(flip[:, :, None], system.B.conj(), system.B),
        C=np.where(flip[:, None, :], system.C.conj(), system.C),
        D=system.D,
    )


def _require_real(layer: Layer, system: DiagonalSystem, lam: np.ndarray) -> None:
    """Raises FamilyError unless every slot is one real state."""
    if not system.real or np.any(np.imag(lam)):
        raise FamilyError("this layer stores real poles and the new ones are complex or negative", where=layer.name)


def _require_in_band(layer: Layer, lam: np.ndarray, C: np.ndarray, steps: np.ndarray) -> None:
    """Raises FamilyError if the model's band limit would mute a slot that matters."""
    limit = layer.options["bandlimit"]
    muted = limit is not None and (steps * np.abs(np.imag(lam)) / (2 * np.pi) >= limit / 2) & np.any(C != 0, axis=0)
    if np.any(muted):
        raise FamilyError(
            f"a reduced pole lies beyond bandlimit={limit} and the model would mute it",
            where=layer.name,
            remedy="Remove bandlimit from the configuration and from the model; muted poles are not written anyway.",
        )


def reduced_config(config: Mapping[str, Any] | None, layer: Layer, slots: int) -> dict[str, Any]:
    """d_state counts both members of each pair (real variant: the slots); n_ssm becomes H; a full S4's mode "diag"."""
    size = slots if layer.constraints.real_poles else 2 * slots
    changed = resized(resized(config, ("d_state", "state_size", "N"), size), ("n_ssm",), layer.systems)
    if not layer.constraints.export:
        return changed
    for place in (changed, *(v for v in changed.values() if isinstance(v, dict))):
        for key in ("mode", "kernel"):
            if place.get(key) in ("s4", "dplr", "nplr"):
                place[key] = "diag"
    return changed


def forward(layer: Layer, arrays: Mapping[str, np.ndarray], u: np.ndarray) -> np.ndarray:
    """y = K * u + D u by the kernel formulas of the source, before dropout and activation.

    Args:
        u: (L, H) float64.

    Returns:
        (L, c*H) float64, column c'*H + h; both directions summed.
    """
    q, length = _parameters(layer, arrays), u.shape[0]
    if "P" in arrays:
        return convolve(_s4_dplr.kernel(q, length), u, arrays["D"])
    half = q.dt * q.lam / 2
    if _rule(layer) == "zoh":
        weight, pole = (np.exp(2 * half) - 1) / q.lam, np.exp(2 * half)
    else:
        weight, pole = q.dt / (1 - half), (1 + half) / (1 - half)
    powers = pole[:, :, None] ** np.arange(length)
    return convolve(2 * np.real(np.einsum("khn,hnl->khl", q.C * q.B * weight, powers)), u, arrays["D"])
