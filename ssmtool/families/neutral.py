"""A neutral layout that any diagonal state-space layer can be written in (docs/neutral-format.md).

Per layer with prefix P, one system or a batch of S systems:

    P.lambda_log (n,) | (S, n)          logarithms of the discrete eigenvalues
    P.B          (n, m) | (S, n, m)
    P.C          (p, n) | (S, p, n)
    P.D          (p, m) | (S, p, m)     optional, real
    P.dt         () | (S,) | (n,) | (S, n)     optional, real

    x[k] = exp(lambda_log) x[k-1] + B u[k],    y[k] = Re(C x[k]) + D u[k]

With dt, lambda_log are continuous eigenvalues and B is continuous, held at zero order:

    x[k] = exp(dt lambda_log) x[k-1] + (exp(dt lambda_log) - 1) / lambda_log · B u[k]

lambda_log, B and C are complex, or real with a last axis of length 2 (re, im); B and C may also be plain real. A real
lambda_log always has that axis, so its rank says whether there is a batch. Unstable systems are allowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.errors import FamilyError
from ssmtool.families._arrays import array_namespace, as_complex, is_complex, zeros
from ssmtool.families._contract import Layer
from ssmtool.families._discretise import zoh, zoh_inverse
from ssmtool.families._names import COMPLEX, complete, dimensions, to_complex, to_pairs
from ssmtool.families._trees import module_names, modules
from ssmtool.lti.systems import DiagonalSystem, System

SUMMARY = "neutral layout for any diagonal system: lambda_log, B, C, optional D and dt"
REFERENCE = "docs/neutral-format.md"
VARIANTS = ("siso", "mimo", "batch", "with-dt", "dt-per-slot")

LEAVES = ("lambda_log", "B", "C", "D", "dt")
STEPS = ("dt",)


def layers(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any] | None) -> tuple[Layer, ...]:
    """Layers by their lambda_log. Raises FamilyError for missing or inconsistent tensors."""
    found = modules(tensors, "lambda_log", LEAVES)
    names = module_names(found)
    return tuple(_layer(names[p], p, f, tensors) for p, f in found.items())


def _layer(name: str, prefix: str, found: dict[str, str], tensors: Mapping[str, TensorInfo]) -> Layer:
    complete(prefix, found, ("B", "C"))
    poles = tensors[found["lambda_log"]]
    rank = len(poles.shape) - (poles.dtype not in COMPLEX)
    if rank not in (1, 2):
        raise FamilyError(
            f"{found['lambda_log']} has shape {poles.shape}",
            where=found["lambda_log"],
            remedy="Expected (n,) or (S, n) complex, or the same with a last axis (re, im).",
        )
    batch = "S " if rank == 2 else ""
    layout = {"lambda_log": batch + "n", "B": batch + "n m", "C": batch + "p n", "D": batch + "p m"}
    for leaf in ("lambda_log", "B", "C"):
        info = tensors[found[leaf]]
        if info.dtype not in COMPLEX and len(info.shape) == len(layout[leaf].split()) + 1:
            layout[leaf] += " 2"
    if "dt" in found:
        steps = len(tensors[found["dt"]].shape)
        layout["dt"] = "" if steps == 0 else "S" if batch and steps == 1 else batch + "n"
    sizes = dimensions(tensors, found, layout, ("lambda_log", "B", "C"))
    if "dt" in found:
        variant = "dt-per-slot" if "n" in layout["dt"] else "with-dt"
    else:
        variant = "batch" if batch else "siso" if sizes["m"] == sizes["p"] == 1 else "mimo"
    return Layer(
        name=name,
        family="neutral",
        variant=variant,
        tensors={leaf: found[leaf] for leaf in LEAVES if leaf in found},
        systems=sizes.get("S", 1),
        inputs=sizes["m"],
        outputs=sizes["p"],
        slots=sizes["n"],
        order=2 * sizes["n"],
        options={"batch": bool(batch)},
    )


def _complex(x: np.ndarray, rank: int) -> np.ndarray:
    """An array as stored -> complex128 of `rank` axes."""
    if is_complex(x):
        return x
    return to_complex(x) if x.ndim == rank + 1 else as_complex(x)


def _batched(layer: Layer, arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """lambda_log (S, n), B (S, n, m), C (S, p, n) complex and D (S, p, m) real, before any discretisation."""
    extra = 1 if layer.options["batch"] else 0
    poles, B = _complex(arrays["lambda_log"], 1 + extra), _complex(arrays["B"], 2 + extra)
    C = _complex(arrays["C"], 2 + extra)
    s, m, p = layer.systems, layer.inputs, layer.outputs
    xp = array_namespace(poles)
    D = xp.reshape(arrays["D"], (s, p, m)) if "D" in arrays else zeros((s, p, m), poles)
    return xp.reshape(poles, (s, -1)), xp.reshape(B, (s, -1, m)), xp.reshape(C, (s, p, -1)), D


def _steps(layer: Layer, dt: np.ndarray) -> np.ndarray:
    """dt as stored -> broadcastable to (S, n)."""
    if dt.ndim == 1 and layer.options["batch"]:
        return dt[:, None]
    return dt.reshape(1, -1) if dt.ndim < 2 else dt


def to_system(layer: Layer, arrays: Mapping[str, np.ndarray]) -> DiagonalSystem:
    """S systems with n slots each."""
    poles, B, C, D = _batched(layer, arrays)
    if "dt" not in arrays:
        return DiagonalSystem(a=poles, B=B, C=C, D=D)
    a, bbar = zoh(poles, _steps(layer, arrays["dt"]))
    return DiagonalSystem(a=a, B=bbar[:, :, None] * B, C=C, D=D)


def from_system(layer: Layer, arrays: Mapping[str, np.ndarray], system: System) -> dict[str, np.ndarray]:
    """The layer's tensors for `system`, any number of slots; a dt per slot becomes the geometric mean per system.

    Plain real B and C get a last axis (re, im) where the new values are complex. A layer without D gets one if the
    system has a feedthrough.

    Raises:
        FamilyError: the number of systems changed, or there are no slots.
    """
    if not isinstance(system, DiagonalSystem) or system.systems != layer.systems or system.slots == 0:
        raise FamilyError(f"this layer stores {layer.systems} diagonal systems with slots", where=layer.name)
    poles, B, new = system.a, system.B, {}
    if "dt" in arrays:
        dt = arrays["dt"]
        if layer.variant == "dt-per-slot":
            mean = np.exp(np.log(_steps(layer, dt)).mean(axis=1, keepdims=True))
            dt = np.repeat(np.float32(mean).astype(np.float64), system.slots, axis=1)
            dt = dt if layer.options["batch"] else dt[0]
        poles, bbar = zoh_inverse(system.a, _steps(layer, dt))
        B = system.B / bbar[:, :, None]
        new["dt"] = dt
    D = system.D if layer.options["batch"] else system.D[0]
    if "D" in arrays:
        new["D"] = D
    elif np.abs(D).max() > 0:
        new[layer.tensors["lambda_log"].removesuffix("lambda_log") + "D"] = D
    for leaf, value in (("lambda_log", poles), ("B", B), ("C", system.C)):
        value = value if layer.options["batch"] else value[0]
        if np.iscomplexobj(arrays[leaf]):
            new[leaf] = value
        else:
            plain = arrays[leaf].ndim == value.ndim and not np.imag(value).any()
            new[leaf] = np.real(value) if plain else to_pairs(value)
    return new


def reduced_config(config: Mapping[str, Any] | None, layer: Layer, slots: int) -> dict[str, Any]:
    """An unchanged copy: sizes stand in the tensors' shapes only."""
    return dict(config or {})


def tiny(variant: str, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """Two layers with 4 slots: one system (complex tensors if SISO, else pairs), or three with 2 inputs, 1 output."""
    rng = np.random.default_rng(seed)
    s, n, (m, p) = 3, 4, {"siso": (1, 1), "mimo": (2, 3)}.get(variant, (2, 1))
    lead = () if variant in ("siso", "mimo") else (s,)
    dt_shape = {"with-dt": (s,), "dt-per-slot": (s, n)}.get(variant)

    def store(z: np.ndarray) -> np.ndarray:
        return z.astype(np.complex64) if variant == "siso" else to_pairs(z).astype(np.float32)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(lead + shape) + 1j * rng.standard_normal(lead + shape)

    tensors: dict[str, np.ndarray] = {"encoder.weight": rng.standard_normal((s * m, 2)).astype(np.float32)}
    for i in range(2):
        at = f"model.layers.{i}.ssm."
        poles = -rng.uniform(0.02, 0.5, (*lead, n)) + 1j * rng.uniform(0.1, 3.0, (*lead, n))
        tensors[at + "lambda_log"] = store(poles)
        tensors[at + "B"], tensors[at + "C"] = store(normal(n, m)), store(normal(p, n))
        if variant != "batch":
            tensors[at + "D"] = rng.standard_normal((*lead, p, m)).astype(np.float32)
        if dt_shape is not None:
            tensors[at + "dt"] = rng.uniform(0.1, 0.9, dt_shape).astype(np.float32)
    tensors["decoder.weight"] = rng.standard_normal((3, s * p)).astype(np.float32)
    return tensors, None


def forward(layer: Layer, arrays: Mapping[str, np.ndarray], u: np.ndarray) -> np.ndarray:
    """(L, S · m) -> (L, S · p), D included."""
    poles, B, C, D = _batched(layer, arrays)
    factors, gains = np.exp(poles), np.ones_like(poles)
    if "dt" in arrays:
        factors = np.exp(_steps(layer, arrays["dt"]) * poles)
        gains = (factors - 1) / poles
    x, y = np.zeros(poles.shape, dtype=np.complex128), np.empty((len(u), layer.systems * layer.outputs))
    for k, now in enumerate(u.reshape(len(u), layer.systems, layer.inputs)):
        x = factors * x + gains * np.einsum("snm,sm->sn", B, now)
        y[k] = (np.einsum("spn,sn->sp", C, x).real + np.einsum("spm,sm->sp", D, now)).ravel()
    return y
