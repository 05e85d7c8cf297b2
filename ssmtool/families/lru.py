"""Linear recurrent units: minimal-LRU (flax), the complex PyTorch ports and the port that reads gamma_log as gamma.

    lam = exp(-exp(nu_log) + i exp(theta_log)),   x[k] = lam x[k-1] + gamma B u[k],   y[k] = Re(C x[k]) + D u[k]

    layout               B, C                                   D          gamma
    flax                 B_re, B_im (n, m); C_re, C_im (p, n)   (H,)       exp(gamma_log)
    torch-complex        B (n, m), C (p, n) complex             (p, m)     exp(gamma_log)
    torch-raw-gamma      B_re, B_im, C_re, C_im                 (p, m)     gamma_log itself

The layouts are told apart by names and by the shape of D; nothing in the file says how gamma is read, so the
configuration may: "gamma": "exp", "raw", "computed" (sqrt(1 - |lam|²)) or "none" (1). Without a gamma_log it is
computed. Every eigenvalue is stable, and its angle exp(theta_log) is positive.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.errors import FamilyError
from ssmtool.families import _mimo
from ssmtool.families._arrays import array_namespace, diagonal
from ssmtool.families._contract import Layer
from ssmtool.families._discretise import FASTEST
from ssmtool.families._names import COMPLEX, complete, dimensions, option, resized
from ssmtool.families._trees import module_names, modules
from ssmtool.lti.systems import DiagonalSystem, System

SUMMARY = "LRU: minimal-LRU (flax) and PyTorch ports, one stable MIMO system per layer"
REFERENCE = (
    "Orvieto et al., ICML 2023 (arXiv:2303.06349); github.com/NicolasZucchet/minimal-LRU, Gothos/LRU-pytorch, "
    "forgi86/sysid-pytorch-lru, adrian-valente/lru_experiments"
)
VARIANTS = ("flax", "torch-complex", "torch-raw-gamma")

LEAVES = ("nu_log", "theta_log", "gamma_log", "B", "C", "B_re", "B_im", "C_re", "C_im", "D")
GAMMA = ("exp", "raw", "computed", "none")
SMALLEST_ANGLE_LOG = -40.0  # exp(-40) = 4e-18: an angle no cosine or sine can tell from zero


def layers(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any] | None) -> tuple[Layer, ...]:
    """LRU layers: modules with nu_log and theta_log. Raises FamilyError for missing or inconsistent tensors."""
    found = {p: f for p, f in modules(tensors, "nu_log", LEAVES).items() if "theta_log" in f}
    names = module_names(found)
    return tuple(_layer(names[p], p, f, tensors, config) for p, f in found.items())


def _layer(
    name: str,
    prefix: str,
    found: dict[str, str],
    tensors: Mapping[str, TensorInfo],
    config: Mapping[str, Any] | None,
) -> Layer:
    split = "B_re" in found or "C_re" in found
    matrices = ("B_re", "B_im", "C_re", "C_im") if split else ("B", "C")
    complete(prefix, found, (*matrices, "D"))
    if not split and any(tensors[found[x]].dtype not in COMPLEX for x in matrices):
        raise FamilyError(f"{found['B']} and {found['C']} must be complex", where=found["B"])
    full = len(tensors[found["D"]].shape) == 2
    inputs, outputs, feed = ("m", "p", "p m") if full else ("H", "H", "H")
    layout = {"nu_log": "n", "theta_log": "n", "gamma_log": "n"}
    layout |= {x: f"n {inputs}" if x[0] == "B" else f"{outputs} n" for x in matrices} | {"D": feed}
    sizes = dimensions(tensors, found, layout, () if split else matrices)
    gamma = option(config, "gamma")
    gamma, note = (gamma, "") if gamma in GAMMA else _usual_gamma("gamma_log" in found, split and full)
    if gamma in ("exp", "raw"):
        complete(prefix, found, ("gamma_log",))
    return Layer(
        name=name,
        family="lru",
        variant=("torch-raw-gamma" if full else "flax") if split else "torch-complex",
        tensors={leaf: found[leaf] for leaf in layout if leaf in found},
        systems=1,
        inputs=sizes[inputs],
        outputs=sizes[outputs],
        slots=sizes["n"],
        order=2 * sizes["n"],
        options={"gamma": gamma},
        note=note,
    )


def _usual_gamma(stored: bool, split_and_full: bool) -> tuple[str, str]:
    """How the port with this layout reads gamma, and what the user should know about it."""
    if not stored:
        return "computed", "There is no gamma_log: gamma is taken as sqrt(1 - |lam|²)."
    if split_and_full:
        return "raw", 'B_re with a full D: gamma_log is taken without exp; "gamma" in the configuration decides.'
    return "exp", ""


def _gamma(layer: Layer, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """(n,) normalisation of the rows of B."""
    xp = array_namespace(arrays["nu_log"])
    match layer.options["gamma"]:
        case "exp":
            return xp.exp(arrays["gamma_log"])
        case "raw":
            return arrays["gamma_log"]
        case "computed":
            return _balanced_gamma(-xp.exp(arrays["nu_log"]))
        case _:
            return xp.ones_like(arrays["nu_log"])


def _balanced_gamma(log_modulus: np.ndarray) -> np.ndarray:
    """sqrt(1 - |lam|²) from log |lam|, accurate near the unit circle."""
    xp = array_namespace(log_modulus)
    return xp.sqrt(-xp.expm1(2 * log_modulus))


def _matrix(arrays: Mapping[str, np.ndarray], x: str) -> np.ndarray:
    return arrays[x] if x in arrays else arrays[x + "_re"] + 1j * arrays[x + "_im"]


def to_system(layer: Layer, arrays: Mapping[str, np.ndarray]) -> DiagonalSystem:
    """One system with n slots; a = -exp(nu_log) + i exp(theta_log), the angle as stored."""
    d = arrays["D"]
    xp = array_namespace(d)
    return DiagonalSystem(
        a=(-xp.exp(arrays["nu_log"]) + 1j * xp.exp(arrays["theta_log"]))[None],
        B=(_gamma(layer, arrays)[:, None] * _matrix(arrays, "B"))[None],
        C=_matrix(arrays, "C")[None],
        D=(d if d.ndim == 2 else diagonal(d))[None],
    )


def from_system(layer: Layer, arrays: Mapping[str, np.ndarray], system: System) -> dict[str, np.ndarray]:
    """The layer's tensors for `system`, any number of slots, with gamma = sqrt(1 - |lam|²) divided out of B.

    Raises:
        FamilyError: an eigenvalue is not stable, or D is full where the layer stores a diagonal.
    """
    system = _mimo.diagonal_slots(layer, system)
    if (np.real(system.a) >= 0).any():
        raise FamilyError("an LRU stores stable eigenvalues only, the new ones are not", where=layer.name)
    system = _mimo.conjugated(system, np.imag(system.a) < 0)
    log_modulus, angle = np.maximum(np.real(system.a[0]), FASTEST), np.imag(system.a[0])
    # Angles of many turns, which some ports start from, would cost float32 digits.
    angle = np.where(angle > 2 * np.pi, np.remainder(angle, 2 * np.pi), angle)
    new: dict[str, np.ndarray] = {
        "nu_log": np.log(-log_modulus),
        "theta_log": np.log(np.maximum(angle, np.exp(SMALLEST_ANGLE_LOG))),
        "D": system.D[0] if arrays["D"].ndim == 2 else _mimo.feedthrough_diagonal(layer, system),
    }
    raw = layer.options["gamma"] == "raw"
    if "gamma_log" in layer.tensors:
        gamma = _balanced_gamma(log_modulus)
        # A float32 number: B divided by what will be read back.
        new["gamma_log"] = np.asarray(gamma if raw else np.log(gamma), dtype=np.float32).astype(np.float64)
    used = _gamma(layer, new)
    B, C = system.B[0] / used[:, None], system.C[0]
    if "B" in layer.tensors:
        return new | {"B": B, "C": C}
    return new | {"B_re": np.real(B), "B_im": np.imag(B), "C_re": np.real(C), "C_im": np.imag(C)}


def reduced_config(config: Mapping[str, Any] | None, layer: Layer, slots: int) -> dict[str, Any]:
    """d_hidden (minimal-LRU, lru_experiments), state_features (Gothos) or d_state (forgi86)."""
    return resized(config, ("d_hidden", "state_features", "d_state"), slots)


def tiny(variant: str, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """Two layers with 5 slots; width 4, or 3 inputs and 4 outputs where D is full."""
    rng = np.random.default_rng(seed)
    flax, n, p = variant == "flax", 5, 4
    m = p if flax else 3
    dot, prefix = {
        "flax": ("/", "params/encoder/layers_{}/seq/"),
        "torch-complex": (".", "blocks.{}.lru."),
        "torch-raw-gamma": (".", "layers.{}.LRU."),
    }[variant]

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    tensors: dict[str, np.ndarray] = {f"encoder{dot}kernel" if flax else "encoder.weight": normal(2, m)}
    for i in range(2):
        at = prefix.format(i)
        modulus = rng.uniform(0.3, 0.99, n)
        gamma = np.sqrt(1 - modulus**2) * rng.uniform(0.8, 1.25, n)  # trained: no longer the initial formula
        tensors[at + "nu_log"] = np.log(-np.log(modulus)).astype(np.float32)
        tensors[at + "theta_log"] = np.log(rng.uniform(0.05, 6.2, n)).astype(np.float32)
        tensors[at + "gamma_log"] = (gamma if variant == "torch-raw-gamma" else np.log(gamma)).astype(np.float32)
        if variant == "torch-complex":
            tensors[at + "B"] = (normal(n, m) + 1j * normal(n, m)).astype(np.complex64)
            tensors[at + "C"] = (normal(p, n) + 1j * normal(p, n)).astype(np.complex64)
        else:
            tensors |= {at + "B_re": normal(n, m), at + "B_im": normal(n, m)}
            tensors |= {at + "C_re": normal(p, n), at + "C_im": normal(p, n)}
        tensors[at + "D"] = normal(p) if flax else normal(p, m)
    tensors[f"decoder{dot}kernel" if flax else "decoder.weight"] = normal(p, 2)
    key = {"flax": "d_hidden", "torch-complex": "d_state", "torch-raw-gamma": "d_hidden"}[variant]
    return tensors, {key: n, "d_model": p, "n_layers": 2}


def forward(layer: Layer, arrays: Mapping[str, np.ndarray], u: np.ndarray) -> np.ndarray:
    """(L, m) -> (L, p): D included, activation not."""
    modulus, angle = np.exp(-np.exp(arrays["nu_log"])), np.exp(arrays["theta_log"])
    poles = modulus * np.cos(angle) + 1j * modulus * np.sin(angle)
    B, C, D = _matrix(arrays, "B"), _matrix(arrays, "C"), arrays["D"]
    states = _mimo.run(poles, _gamma(layer, arrays) * (u @ B.T))
    return (states @ C.T).real + (u @ D.T if D.ndim == 2 else u * D)
