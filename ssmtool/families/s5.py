"""S5 layers of lindermanlab/S5 (JAX, flax) and of code that keeps its parameter tree (LAST's pruned models).

With lam = Lambda_re + i Lambda_im, dt = exp(log_step), B~ and C~ the complex B and C:

    zoh       Abar = exp(lam dt)                        Bbar = (Abar - 1) / lam · B~
    bilinear  Abar = (1 + lam dt/2) / (1 - lam dt/2)    Bbar = dt / (1 - lam dt/2) · B~
    x[k] = Abar x[k-1] + Bbar u[k],    y[k] = 2 Re(C~ x[k]) + D u[k]     (Re(C~ x) if conj_sym is False)

A bidirectional layer adds C2 x' with x' run from the end, current input included: both directions have lag 0.

Not stored, so taken from the configuration: discretization (zoh), clip_eigs (False: True limits Re lam to -1e-4)
and conj_sym. Without a conj_sym there the values decide when a layer is read: training starts from eigenvalues
that either lie on one side of the real axis (half of the pairs stored) or come in pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.errors import FamilyError
from ssmtool.families import _mimo
from ssmtool.families._arrays import array_namespace, at_most
from ssmtool.families._contract import Layer
from ssmtool.families._discretise import discretise, undiscretise
from ssmtool.families._names import complete, dimensions, option, resized, to_complex, to_pairs
from ssmtool.families._trees import module_names, modules
from ssmtool.lti.systems import DiagonalSystem, System

SUMMARY = "S5 (lindermanlab, JAX): one MIMO system per layer, a step per state"
REFERENCE = "Smith, Warrington, Linderman, ICLR 2023 (arXiv:2208.04933); github.com/lindermanlab/S5"
VARIANTS = ("jax", "jax-bilinear", "jax-bidirectional", "jax-bidirectional-2p", "jax-full")

LEAVES = ("Lambda_re", "Lambda_im", "B", "C", "C1", "C2", "D", "log_step")
STEPS = ("log_step",)
CLIP = 1e-4  # clip_eigs keeps Re lam at or below -CLIP
# Both signs among Lambda_im in this share mean pairs; a few crossings of the real axis in training do not.
PAIRED_SHARE = 0.25


def layers(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any] | None) -> tuple[Layer, ...]:
    """S5 layers by their leaves. Raises FamilyError for inconsistent shapes or an unknown discretization."""
    found = {p: f for p, f in modules(tensors, "Lambda_re", LEAVES).items() if _is_s5(tensors, f)}
    names = module_names(found)
    return tuple(_layer(names[p], p, f, tensors, config) for p, f in found.items())


def _is_s5(tensors: Mapping[str, TensorInfo], found: Mapping[str, str]) -> bool:
    """Annotated-S4 has Lambda_re (N, H); ConvS5 has these leaves with a five-dimensional convolution kernel C."""
    rank = {leaf: len(tensors[name].shape) for leaf, name in found.items()}
    return rank["Lambda_re"] == 1 and rank.get("Lambda_im") == 1 and rank.get("B") == 3 and rank.get("C") != 5


def _layer(
    name: str,
    prefix: str,
    found: dict[str, str],
    tensors: Mapping[str, TensorInfo],
    config: Mapping[str, Any] | None,
) -> Layer:
    outputs = ("C1", "C2") if "C1" in found or "C2" in found else ("C",)
    complete(prefix, found, ("Lambda_re", "Lambda_im", "B", *outputs, "D", "log_step"))
    twice = outputs == ("C",) and tensors[found["C"]].shape[1:2] == (2 * tensors[found["Lambda_re"]].shape[0],)
    layout = {"Lambda_re": "P", "Lambda_im": "P", "B": "P H 2", "D": "H", "log_step": "P 1"}
    layout |= dict.fromkeys(outputs, "H Q 2" if twice else "H P 2")
    sizes = dimensions(tensors, found, layout)
    disc = option(config, "discretization", "disc", default="zoh")
    if disc not in ("zoh", "bilinear"):
        raise FamilyError(f"unknown discretization {disc!r}", where=name, remedy="S5 knows zoh and bilinear.")
    directions = 2 if twice or len(outputs) == 2 else 1
    conj_sym = option(config, "conj_sym")
    if conj_sym is not None:
        variant, note = ("jax" if conj_sym else "jax-full"), ""
    else:
        variant = "jax"
        note = (
            "conj_sym is not stored: the signs of Lambda_im decide (one sign: 2 Re(C x); both: Re(C x)) "
            "unless the configuration has conj_sym."
        )
    if directions == 2:
        variant += "-bidirectional-2p" if twice else "-bidirectional"
    return Layer(
        name=name,
        family="s5",
        variant=variant,
        tensors={leaf: found[leaf] for leaf in layout},
        systems=1,
        inputs=sizes["H"],
        outputs=sizes["H"] * directions,
        slots=sizes["P"],
        order=2 * sizes["P"],
        options={
            "disc": disc,
            "conj_sym": None if conj_sym is None else bool(conj_sym),
            "clip_eigs": bool(option(config, "clip_eigs", default=False)),
            "directions": directions,
            "reverse_lag": 0,
        },
        note=note,
    )


def signs_say_half(lambda_im: np.ndarray) -> bool:
    """True unless both signs are well represented; also True, the default of the scripts, without any sign."""
    positive, negative = int((lambda_im > 0).sum()), int((lambda_im < 0).sum())
    return min(positive, negative) < PAIRED_SHARE * max(positive + negative, 1)


def _gain(layer: Layer, arrays: Mapping[str, np.ndarray]) -> float:
    """2 where half of each conjugate pair is stored, 1 where the whole spectrum is."""
    half = layer.options["conj_sym"]
    return 2.0 if (signs_say_half(arrays["Lambda_im"]) if half is None else half) else 1.0


def _eigenvalues(layer: Layer, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    real = arrays["Lambda_re"]
    return (at_most(real, -CLIP) if layer.options["clip_eigs"] else real) + 1j * arrays["Lambda_im"]


def _output_rows(layer: Layer, arrays: Mapping[str, np.ndarray]) -> NDArray[np.complexfloating]:
    """(directions, H, P) complex C~, forward first."""
    if "C1" in arrays:
        rows = [to_complex(arrays["C1"]), to_complex(arrays["C2"])]
    else:
        C = to_complex(arrays["C"])
        rows = [C[:, i * layer.slots : (i + 1) * layer.slots] for i in range(layer.options["directions"])]
    return array_namespace(rows[0]).stack(rows)


def to_system(layer: Layer, arrays: Mapping[str, np.ndarray]) -> DiagonalSystem:
    """One system with P slots; a bidirectional layer's backward rows below the forward ones."""
    dt = array_namespace(arrays["log_step"]).exp(arrays["log_step"][:, 0])
    a, bbar = discretise(layer.options["disc"], _eigenvalues(layer, arrays), dt)
    C = _gain(layer, arrays) * _output_rows(layer, arrays)
    return DiagonalSystem(
        a=a[None],
        B=(bbar[:, None] * to_complex(arrays["B"]))[None],
        C=C.reshape(1, layer.outputs, -1),
        D=_mimo.stacked_feedthrough(arrays["D"], layer.options["directions"]),
    )


def from_system(layer: Layer, arrays: Mapping[str, np.ndarray], system: System) -> dict[str, np.ndarray]:
    """The layer's tensors for `system`, any number of slots; one step for all, the geometric mean of the old ones.

    Raises:
        FamilyError: D is not diagonal; clip_eigs would move an unstable eigenvalue; or the values would no longer
            say that the whole spectrum is stored and the configuration does not either.
    """
    gain = _gain(layer, arrays)
    system = _with_signs(layer, arrays, _mimo.diagonal_slots(layer, system))
    dt = np.full(system.slots, np.exp(_mimo.common_log_step(arrays["log_step"])))
    lam, bbar = undiscretise(layer.options["disc"], system.a[0], dt)
    if layer.options["clip_eigs"]:
        # A shorter step needs a larger lam for the same pole: out of the reach of the limit, float32 rounding included.
        if (np.real(lam) >= 0).any():
            raise FamilyError("clip_eigs keeps eigenvalues stable, the new ones are not", where=layer.name)
        scale = np.maximum(1.0, 1.001 * CLIP / -np.real(lam))
        lam, bbar, dt = lam * scale, bbar / scale, dt / scale
    C = to_pairs(system.C[0].reshape(layer.options["directions"], layer.inputs, system.slots) / gain)
    new: dict[str, np.ndarray] = {
        "Lambda_re": np.real(lam),
        "Lambda_im": np.imag(lam),
        "B": to_pairs(system.B[0] / bbar[:, None]),
        "D": _mimo.feedthrough_diagonal(layer, system),
        "log_step": np.log(dt)[:, None],
    }
    if "C1" in layer.tensors:
        return new | {"C1": C[0], "C2": C[1]}
    return new | {"C": np.concatenate(list(C), axis=1)}


def _with_signs(layer: Layer, arrays: Mapping[str, np.ndarray], system: DiagonalSystem) -> DiagonalSystem:
    """Choose of each pair the member that lets `signs_say_half` read the file as it reads the original."""
    if layer.options["conj_sym"] is not None:
        return system
    old, im = arrays["Lambda_im"], np.imag(system.a)
    if signs_say_half(old):
        wanted = np.full(system.slots, 1.0 if (old > 0).sum() > (old < 0).sum() else -1.0)
    else:
        wanted = np.where(np.cumsum(im[0] != 0) % 2, 1.0, -1.0)
    system = _mimo.conjugated(system, im * wanted < 0)
    if signs_say_half(np.imag(system.a)) != signs_say_half(old):
        raise FamilyError(
            "so few complex eigenvalues do not show that the whole spectrum is stored",
            where=layer.name,
            remedy='Put "conj_sym": false into the configuration, or keep more states.',
        )
    return system


def reduced_config(config: Mapping[str, Any] | None, layer: Layer, slots: int) -> dict[str, Any]:
    """ssm_size(_base) counts both members of a pair; blocks must go on dividing the number of slots."""
    size = slots if layer.options["conj_sym"] is False else 2 * slots
    changed = resized(config, ("ssm_size_base", "ssm_size"), size)
    blocks = option(changed, "blocks")
    return resized(changed, ("blocks",), gcd(blocks, slots)) if isinstance(blocks, int) else changed


def tiny(variant: str, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """Two layers of width 6 with 4 slots (8 for the whole spectrum), flattened from a flax training state."""
    rng = np.random.default_rng(seed)
    full, two_sided = variant == "jax-full", "bidirectional" in variant
    h, p = 6, 8 if full else 4

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    tensors: dict[str, np.ndarray] = {
        "params/encoder/encoder/kernel": normal(3, h),
        "params/encoder/encoder/bias": normal(h),
    }
    for i in range(2):
        seq = f"params/encoder/layers_{i}/seq/"
        sign = np.where(np.arange(p) % 2, 1, -1) if full else -1
        tensors[seq + "Lambda_re"] = -rng.uniform(0.3, 2.0, p).astype(np.float32)
        tensors[seq + "Lambda_im"] = (sign * rng.uniform(0.5, 9.0, p)).astype(np.float32)
        tensors[seq + "B"] = normal(p, h, 2)
        if variant == "jax-bidirectional":
            tensors[seq + "C1"], tensors[seq + "C2"] = normal(h, p, 2), normal(h, p, 2)
        else:
            tensors[seq + "C"] = normal(h, 2 * p if two_sided else p, 2)
        tensors[seq + "D"] = normal(h)
        tensors[seq + "log_step"] = rng.uniform(np.log(0.02), np.log(0.3), (p, 1)).astype(np.float32)
        tensors[f"params/encoder/layers_{i}/norm/scale"] = normal(h)
        tensors[f"params/encoder/layers_{i}/out2/kernel"] = normal(h, h)
        tensors[f"batch_stats/encoder/layers_{i}/norm/mean"] = normal(h)
        tensors[f"opt_state/inner_states/ssm/inner_state/0/mu/encoder/layers_{i}/seq/Lambda_re"] = normal(p)
        tensors[f"opt_state/inner_states/ssm/inner_state/0/mu/encoder/layers_{i}/seq/B"] = normal(p, h, 2)
    tensors["params/decoder/kernel"] = normal(h, 2)
    config = {"d_model": h, "n_layers": 2, "ssm_size_base": 8, "blocks": 2, "bidirectional": two_sided}
    config |= {"conj_sym": not full, "discretization": "bilinear" if variant == "jax-bilinear" else "zoh"}
    return tensors, config


def forward(layer: Layer, arrays: Mapping[str, np.ndarray], u: np.ndarray) -> np.ndarray:
    """(L, H) -> (L, H): both directions summed, D included, activation not."""
    lam, dt = _eigenvalues(layer, arrays), np.exp(arrays["log_step"][:, 0])
    if layer.options["disc"] == "zoh":
        poles = np.exp(lam * dt)
        gains = (poles - 1) / lam
    else:
        poles = (1 + lam * dt / 2) / (1 - lam * dt / 2)
        gains = dt / (1 - lam * dt / 2)
    driven = u @ (gains[:, None] * to_complex(arrays["B"])).T
    rows = _output_rows(layer, arrays)
    y = _mimo.run(poles, driven) @ rows[0].T
    if layer.options["directions"] == 2:
        y = y + _mimo.run(poles, driven[::-1])[::-1] @ rows[1].T
    return _gain(layer, arrays) * np.real(y) + u * arrays["D"]
