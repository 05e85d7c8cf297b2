"""S5 layers of the PyTorch port s5-pytorch (PyPI 0.2.1).

With dt = exp(log_step), B~ = B[..., 0] + i B[..., 1]:

    Abar = exp(Lambda dt),   Bbar = (Abar - 1) / Lambda · B~,   y[k] = Re(C x[k]) + D u[k]

The whole spectrum is stored, without tying the members of a pair to each other, and there is no factor 2: every slot
is a complex state of its own, so one slot can also stand for a pair by itself. A bidirectional layer has
C (H, 2P) = [forward, backward], both directions with the current input included.

`liquid` (input-dependent) and `degree` are constructor arguments, known only if the configuration has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd
from typing import Any

import numpy as np

from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.errors import FamilyError
from ssmtool.families import _mimo
from ssmtool.families._arrays import array_namespace
from ssmtool.families._contract import Layer
from ssmtool.families._discretise import discretise, undiscretise
from ssmtool.families._names import COMPLEX, complete, dimensions, option, resized, to_complex, to_pairs
from ssmtool.families._trees import module_names, modules
from ssmtool.lti.systems import DiagonalSystem, System

SUMMARY = "S5 (s5-pytorch): one MIMO system per layer, whole spectrum stored"
REFERENCE = "github.com/i404788/s5-pytorch 0.2.1, after Smith, Warrington, Linderman, ICLR 2023 (arXiv:2208.04933)"
VARIANTS = ("torch", "torch-bidirectional")

LEAVES = ("Lambda", "B", "C", "D", "log_step")
STEPS = ("log_step",)


def layers(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any] | None) -> tuple[Layer, ...]:
    """s5-pytorch layers: a complex vector Lambda beside a vector log_step. Raises FamilyError if inconsistent."""
    found = {p: f for p, f in modules(tensors, "Lambda", LEAVES).items() if _is_s5(tensors, f)}
    names = module_names(found)
    return tuple(_layer(names[p], p, f, tensors, config) for p, f in found.items())


def _is_s5(tensors: Mapping[str, TensorInfo], found: Mapping[str, str]) -> bool:
    poles, step = tensors[found["Lambda"]], tensors.get(found.get("log_step", ""))
    return poles.dtype in COMPLEX and len(poles.shape) == 1 and step is not None and len(step.shape) == 1


def _layer(
    name: str,
    prefix: str,
    found: dict[str, str],
    tensors: Mapping[str, TensorInfo],
    config: Mapping[str, Any] | None,
) -> Layer:
    complete(prefix, found, LEAVES)
    twice = tensors[found["C"]].shape[1:] == (2 * tensors[found["Lambda"]].shape[0],)
    layout = {"Lambda": "P", "B": "P H 2", "C": "H Q" if twice else "H P", "D": "H", "log_step": "P"}
    sizes = dimensions(tensors, found, layout, ("Lambda", "C"))
    disc = option(config, "discretization", "disc", default="zoh")
    if disc not in ("zoh", "bilinear"):
        raise FamilyError(f"unknown discretization {disc!r}", where=name, remedy="S5 knows zoh and bilinear.")
    if option(config, "degree", default=1) != 1:
        raise FamilyError("powers of the input matrix (degree) are not supported", where=name)
    liquid, directions = bool(option(config, "liquid", default=False)), 2 if twice else 1
    return Layer(
        name=name,
        family="s5_pytorch",
        variant="torch-bidirectional" if twice else "torch",
        tensors={leaf: found[leaf] for leaf in LEAVES},
        systems=1,
        inputs=sizes["H"],
        outputs=sizes["H"] * directions,
        slots=sizes["P"],
        order=2 * sizes["P"],
        lti=not liquid,
        options={"disc": disc, "directions": directions, "reverse_lag": 0},
        note="liquid: the input changes the state matrix." if liquid else "",
    )


def to_system(layer: Layer, arrays: Mapping[str, np.ndarray]) -> DiagonalSystem:
    """One system with P slots; a bidirectional layer's backward rows below the forward ones."""
    xp, n = array_namespace(arrays["C"]), layer.slots
    a, bbar = discretise(layer.options["disc"], arrays["Lambda"], xp.exp(arrays["log_step"]))
    C = [arrays["C"][:, i * n : (i + 1) * n] for i in range(layer.options["directions"])]
    return DiagonalSystem(
        a=a[None],
        B=(bbar[:, None] * to_complex(arrays["B"]))[None],
        C=xp.concat(C)[None],
        D=_mimo.stacked_feedthrough(arrays["D"], layer.options["directions"]),
    )


def from_system(layer: Layer, arrays: Mapping[str, np.ndarray], system: System) -> dict[str, np.ndarray]:
    """The layer's tensors for `system`, any number of slots; one step for all, the geometric mean of the old ones.

    Raises:
        FamilyError: the system's D is not diagonal.
    """
    system = _mimo.diagonal_slots(layer, system)
    log_step = np.full(system.slots, _mimo.common_log_step(arrays["log_step"]))
    lam, bbar = undiscretise(layer.options["disc"], system.a[0], np.exp(log_step))
    return {
        "Lambda": lam,
        "B": to_pairs(system.B[0] / bbar[:, None]),
        "C": np.concatenate(np.split(system.C[0], layer.options["directions"]), axis=1),
        "D": _mimo.feedthrough_diagonal(layer, system),
        "log_step": log_step,
    }


def reduced_config(config: Mapping[str, Any] | None, layer: Layer, slots: int) -> dict[str, Any]:
    """state_width (S5) or state_dim (S5Block); block_count must go on dividing it."""
    changed = resized(config, ("state_width", "state_dim", "d_state"), slots)
    blocks = option(changed, "block_count")
    return resized(changed, ("block_count",), gcd(blocks, slots)) if isinstance(blocks, int) else changed


def tiny(variant: str, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """Two blocks of width 4 with 6 slots."""
    rng = np.random.default_rng(seed)
    h, p, two_sided = 4, 6, variant == "torch-bidirectional"

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    tensors: dict[str, np.ndarray] = {"encoder.weight": normal(h, 3), "encoder.bias": normal(h)}
    for i in range(2):
        seq, q = f"layers.{i}.s5.seq.", 2 * p if two_sided else p
        poles = -rng.uniform(0.3, 2.0, p) + 1j * rng.uniform(-9.0, 9.0, p)
        tensors[seq + "Lambda"] = poles.astype(np.complex64)
        tensors[seq + "C"] = (normal(h, q) + 1j * normal(h, q)).astype(np.complex64)
        tensors[seq + "B"] = normal(p, h, 2)
        tensors[seq + "D"] = normal(h)
        tensors[seq + "log_step"] = rng.uniform(np.log(0.02), np.log(0.3), p).astype(np.float32)
        tensors[f"layers.{i}.attn_norm.weight"] = normal(h)
        tensors[f"layers.{i}.ff_enc.weight"] = normal(2 * h, h)
        tensors[f"layers.{i}.ff_dec.weight"] = normal(h, h)
    tensors |= {"decoder.weight": normal(2, h), "decoder.bias": normal(2)}
    return tensors, {"width": h, "state_width": p, "block_count": 2, "bidir": two_sided}


def forward(layer: Layer, arrays: Mapping[str, np.ndarray], u: np.ndarray) -> np.ndarray:
    """(L, H) -> (L, H): both directions summed, D included, activation not."""
    lam, dt = arrays["Lambda"], np.exp(arrays["log_step"])
    if layer.options["disc"] == "zoh":
        poles = np.exp(lam * dt)
        gains = (poles - 1) / lam
    else:
        poles = (1 + lam * dt / 2) / (1 - lam * dt / 2)
        gains = dt / (1 - lam * dt / 2)
    driven = u @ (gains[:, None] * to_complex(arrays["B"])).T
    states = _mimo.run(poles, driven)
    if layer.options["directions"] == 2:
        states = np.concatenate([states, _mimo.run(poles, driven[::-1])[::-1]], axis=1)
    return (states @ arrays["C"].T).real + u * arrays["D"]
