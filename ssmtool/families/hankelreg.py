"""The rotation-block layers of Algopaul/hankelreg (JAX, flax.nnx), trained with a Hankel-norm regulariser.

    angle = π (tanh(angles) + 1) / 2,   rho = (tanh(retentions) + 1) / 2
    x_i[k] = rho_i [[cos, sin], [-sin, cos]](angle_i) x_i[k-1] + sys_in_i u[k]            (x_i of two real entries)
    y[k] = Σ_i sys_out[:, i] x_i[k] + sys_feed · u[k]

The model is discrete already and stable by construction. With z = x_1 + i x_2 a block is one complex slot:
lam = rho exp(-i angle), B = sys_in[0] + i sys_in[1], C = sys_out[0] - i sys_out[1], y = Re(C z).

The repository reduces models in memory only, to a layout that it never writes; it is not read here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.errors import FamilyError
from ssmtool.families import _mimo
from ssmtool.families._arrays import array_namespace
from ssmtool.families._contract import Layer
from ssmtool.families._names import complete, dimensions, resized, to_complex, to_pairs
from ssmtool.families._trees import module_names, modules
from ssmtool.lti.systems import DiagonalSystem, System

SUMMARY = "HankelReg: one MIMO system of 2x2 rotation blocks per layer"
REFERENCE = "Schwerdtner et al., Hankel singular value regularization (arXiv:2510.22951); github.com/Algopaul/hankelreg"
VARIANTS = ("hankelreg",)

LAYOUT = {
    "rotation/angles": "n",
    "rotation/retentions": "n",
    "sys_in": "n 2 H",
    "sys_out": "H n 2",
    "sys_feed": "H",
}
END = 20.0  # tanh(±20) = ±1 to the last bit of a double: angle 0 or π, retention 0 or 1


def layers(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any] | None) -> tuple[Layer, ...]:
    """HankelReg layers by their leaves. Raises FamilyError for missing or inconsistent tensors."""
    found = modules(tensors, "rotation/angles", LAYOUT)
    found = {p: f for p, f in found.items() if "rotation/retentions" in f}
    names = module_names(found)
    result = []
    for prefix, leaves in found.items():
        complete(prefix, leaves, LAYOUT)
        sizes = dimensions(tensors, leaves, LAYOUT)
        result.append(
            Layer(
                name=names[prefix],
                family="hankelreg",
                variant="hankelreg",
                tensors=leaves,
                systems=1,
                inputs=sizes["H"],
                outputs=sizes["H"],
                slots=sizes["n"],
                order=2 * sizes["n"],
            )
        )
    return tuple(result)


def to_system(layer: Layer, arrays: Mapping[str, np.ndarray]) -> DiagonalSystem:
    """One system with a slot per block; Im a = -angle in [-π, 0]."""
    # (tanh(x) + 1) / 2 = 1 / (1 + exp(-2x)); its logarithm keeps its digits near 1.
    retentions, angles = arrays["rotation/retentions"], arrays["rotation/angles"]
    xp = array_namespace(angles)
    log_rho = -xp.logaddexp(xp.zeros_like(retentions), -2 * retentions)
    angle = np.pi * xp.exp(-xp.logaddexp(xp.zeros_like(angles), -2 * angles))
    return DiagonalSystem(
        a=(log_rho - 1j * angle)[None],
        B=(arrays["sys_in"][:, 0] + 1j * arrays["sys_in"][:, 1])[None],
        C=to_complex(arrays["sys_out"]).conj()[None],
        D=_mimo.stacked_feedthrough(arrays["sys_feed"], 1),
    )


def from_system(layer: Layer, arrays: Mapping[str, np.ndarray], system: System) -> dict[str, np.ndarray]:
    """The layer's tensors for `system`, any number of slots.

    The inverse of (tanh(x) + 1) / 2 = s is x = ½ log(s / (1 - s)), with 1 - rho = -expm1(Re a).

    Raises:
        FamilyError: an eigenvalue is not stable, or D is not diagonal.
    """
    system = _mimo.diagonal_slots(layer, system)
    if (np.real(system.a) >= 0).any():
        raise FamilyError("rotation blocks are stable, the new eigenvalues are not", where=layer.name)
    im = np.imag(system.a)
    folded = np.where(np.abs(im) > np.pi, im - 2 * np.pi * np.round(im / (2 * np.pi)), im)
    system = _mimo.conjugated(replace(system, a=np.real(system.a) + 1j * folded), folded > 0)
    log_rho, angle = np.real(system.a[0]), np.clip(-np.imag(system.a[0]), 0.0, np.pi)
    with np.errstate(divide="ignore"):  # the ends, 0 and π, are infinitely far
        angles = (np.log(angle) - np.log(np.pi - angle)) / 2
    return {
        "rotation/angles": np.clip(angles, -END, END),
        "rotation/retentions": np.clip((log_rho - np.log(-np.expm1(log_rho))) / 2, -END, None),
        "sys_in": np.stack([np.real(system.B[0]), np.imag(system.B[0])], axis=1),
        "sys_out": to_pairs(system.C[0].conj()),
        "sys_feed": _mimo.feedthrough_diagonal(layer, system),
    }


def reduced_config(config: Mapping[str, Any] | None, layer: Layer, slots: int) -> dict[str, Any]:
    """state_dim counts the real states, two per block."""
    return resized(config, ("state_dim",), 2 * slots)


def tiny(variant: str, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """Two layers of width 6 with 4 blocks, as the repository's pickle flattens: model 0, optimiser 1."""
    rng = np.random.default_rng(seed)
    n, h = 4, 6

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    tensors: dict[str, np.ndarray] = {"state/0/enc/kernel": normal(1, h), "state/0/enc/bias": normal(h)}
    for i in range(2):
        at, copy = f"layers/{i}/sequence_processor/", f"state/1/opt_state/0/mu/layers/{i}/sequence_processor/"
        tensors[f"state/0/{at}rotation/angles"] = normal(n)
        tensors[f"state/0/{at}rotation/retentions"] = (1 + 0.25 * normal(n)).astype(np.float32)
        tensors[f"state/0/{at}sys_in"] = normal(n, 2, h)
        tensors[f"state/0/{at}sys_out"] = normal(h, n, 2)
        tensors[f"state/0/{at}sys_feed"] = normal(h)
        tensors[f"state/0/layers/{i}/out2/kernel"] = normal(h, h)
        tensors[f"state/0/layers/{i}/prenorm/scale"] = normal(h)
        tensors[f"{copy}rotation/angles"], tensors[f"{copy}rotation/retentions"] = normal(n), normal(n)
    tensors |= {"state/0/dec/kernel": normal(h, 3), "state/0/dec/bias": normal(3)}
    return tensors, {"ssm": {"channels_in": 1, "channels_out": 3, "state_dim": 2 * n, "io_dim": h, "layers": 2}}


def forward(layer: Layer, arrays: Mapping[str, np.ndarray], u: np.ndarray) -> np.ndarray:
    """(L, H) -> (L, H) with the real 2x2 blocks: sys_feed included, activation not."""
    angle = np.pi * (np.tanh(arrays["rotation/angles"]) + 1) / 2
    rho = (np.tanh(arrays["rotation/retentions"]) + 1) / 2
    cos, sin = np.cos(angle), np.sin(angle)
    blocks = rho[:, None, None] * np.array([[cos, sin], [-sin, cos]]).transpose(2, 0, 1)
    x, y = np.zeros((len(rho), 2)), np.empty((len(u), layer.outputs))
    for k, now in enumerate(u):
        x = np.einsum("nij,nj->ni", blocks, x) + arrays["sys_in"] @ now
        y[k] = np.einsum("hni,ni->h", arrays["sys_out"], x) + arrays["sys_feed"] * now
    return y
