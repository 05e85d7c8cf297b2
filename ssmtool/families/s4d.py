"""S4D, the standalone file: H independent single-input systems with diagonal continuous-time A, zero-order hold.

    dt = exp(log_dt)    lam = -exp(log_A_real) + i A_imag    B = 1 (not stored)
    K_h[j] = 2 Re sum_n C_hn (exp(dt_h lam_hn) - 1) / lam_hn exp(dt_h lam_hn j)        y = K * u + D u

N = d_state / 2 modes are stored, one of each conjugate pair. Everything a layer needs is in its tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.families._arrays import array_namespace
from ssmtool.families._contract import Layer
from ssmtool.families._convolution import convolve
from ssmtool.families._half_slots import changed_feedthrough, from_canonical, to_canonical
from ssmtool.families._names import complete, dimensions, groups, layer_names, resized, to_complex, to_pairs
from ssmtool.lti.systems import DiagonalSystem

SUMMARY = "S4D (standalone file): H diagonal single-input systems, zero-order hold"
REFERENCE = "Gu et al., 2022, arXiv:2206.11893; state-spaces/s4, models/s4/s4d.py"
VARIANTS = ("s4d",)
STEPS = ("log_dt",)

_LAYOUT = {
    "D": "H",
    "kernel.C": "H N 2",
    "kernel.log_dt": "H",
    "kernel.log_A_real": "H N",
    "kernel.A_imag": "H N",
}


def layers(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any] | None) -> tuple[Layer, ...]:
    """The S4D layers of a checkpoint, found by `kernel.log_A_real`. Raises FamilyError for inconsistent shapes."""
    found = groups(tensors, "kernel.log_A_real", _LAYOUT)
    names = layer_names(found)
    layers = []
    for prefix, parts in found.items():
        complete(prefix, parts, _LAYOUT)
        size = dimensions(tensors, parts, _LAYOUT)
        layers.append(
            Layer(
                name=names[prefix],
                family="s4d",
                variant="s4d",
                tensors={suffix.rpartition(".")[2]: full for suffix, full in parts.items()},
                systems=size["H"],
                inputs=1,
                outputs=1,
                slots=size["N"],
                order=2 * size["N"],
                options={"disc": "zoh", "directions": 1},
            )
        )
    return tuple(layers)


def _poles(arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Continuous eigenvalues (H, N) complex128 and steps (H, 1)."""
    xp = array_namespace(arrays["A_imag"])
    return -xp.exp(arrays["log_A_real"]) + 1j * arrays["A_imag"], xp.exp(arrays["log_dt"])[:, None]


def to_system(layer: Layer, arrays: Mapping[str, np.ndarray]) -> DiagonalSystem:
    """Canonical system with B = 1, C = 2 C (exp(dt lam) - 1) / lam."""
    lam, dt = _poles(arrays)
    return to_canonical("zoh", lam, dt, to_complex(arrays["C"])[None], arrays["D"][None])


def from_system(layer: Layer, arrays: Mapping[str, np.ndarray], system: DiagonalSystem) -> dict[str, np.ndarray | None]:
    """Tensors of the same layout with the system's poles and slots; the steps stay as they are."""
    lam, C = from_canonical("zoh", system, np.exp(arrays["log_dt"])[:, None])
    feed = changed_feedthrough(layer.tensors["D"], arrays["D"][None], system)
    return {
        "C": to_pairs(C[0]),
        "log_A_real": np.log(-np.real(lam)),
        "A_imag": np.imag(lam),
        **{role: D[0] for role, D in feed.items()},
    }


def reduced_config(config: Mapping[str, Any] | None, layer: Layer, slots: int) -> dict[str, Any]:
    """d_state (N of the kernel) counts both members of each pair."""
    return resized(config, ("d_state", "state_size", "N"), 2 * slots)


def tiny(variant: str, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """Two layers of four channels with d_state = 6, between an encoder and a decoder."""
    rng = np.random.default_rng(seed)
    H, N = 4, 3
    tensors = {"encoder.weight": rng.normal(size=(H, 2)), "encoder.bias": rng.normal(size=H)}
    for i in range(2):
        p = f"s4_layers.{i}."
        tensors |= {
            p + "D": rng.normal(size=H),
            p + "kernel.C": rng.normal(size=(H, N, 2)),
            p + "kernel.log_dt": rng.uniform(np.log(0.05), np.log(0.5), H),
            p + "kernel.log_A_real": rng.normal(-0.5, 0.5, (H, N)),
            p + "kernel.A_imag": np.pi * np.arange(N) + rng.normal(0, 0.3, (H, N)),
            p + "output_linear.0.weight": rng.normal(size=(2 * H, H, 1)),
            p + "output_linear.0.bias": rng.normal(size=2 * H),
            f"norms.{i}.weight": rng.normal(size=H),
            f"norms.{i}.bias": rng.normal(size=H),
        }
    tensors |= {"decoder.weight": rng.normal(size=(3, H)), "decoder.bias": rng.normal(size=3)}
    return {name: x.astype(np.float32) for name, x in tensors.items()}, {"d_model": H, "d_state": 2 * N}


def forward(layer: Layer, arrays: Mapping[str, np.ndarray], u: np.ndarray) -> np.ndarray:
    """y = K * u + D u by the kernel formula of the source, before activation.

    Args:
        u: (L, H) float64.

    Returns:
        (L, H) float64.
    """
    lam, dt = _poles(arrays)
    weight = to_complex(arrays["C"]) * (np.exp(dt * lam) - 1) / lam
    powers = np.exp((dt * lam)[:, :, None] * np.arange(u.shape[0]))
    kernel = 2 * np.real(np.einsum("hn,hnl->hl", weight, powers))
    return convolve(kernel[None], u, arrays["D"][None])
