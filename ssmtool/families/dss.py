"""DSS: diagonal state spaces whose continuous eigenvalues are shared by all channels; y = Re(W x), no factor 2.

    a_hn = dt_h0 Re Lambda_n + i dt_h1 Im Lambda_n   (log_dt (H, 2); one step for both if (H,))
    K_h[j] = Re sum_n W_hn bbar_hn exp(a_hn j)       y = K * u + D u

    version                Lambda                                         bbar
    softmax                as stored                                      see below, depends on the length L
    exp, exp-re-im         -exp(log_neg_re) + i im, i exp(log_im)         (exp(a) - 1) / Lambda
    clip                   Re limited to max_real_Lambda                  (exp(a) - 1) / Lambda
    exp-no-scale, clip-no-scale                                           1

1 / Lambda is conj(Lambda) / max(|Lambda|², 1e-7) in the source. Softmax normalises each mode over L steps: with
s = -1 where Re Lambda > 0 and 1 elsewhere, r(x) = conj(x) / (x conj(x) + 1e-7),

    bbar = (exp(s a) - 1) r((exp(s a L) - 1) Lambda),  and for s = -1 also exp(-a (L - 1));

that epsilon moves kernels by about 1e-3 and is kept. Versions and L are not stored: tensors tell exp from the rest,
a configuration tells the others apart ("version", "l_max"); (N, 2) Lambda without one means softmax, the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

import numpy as np

from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.errors import FamilyError
from ssmtool.families._arrays import array_namespace, at_least, at_most
from ssmtool.families._contract import Constraints, Layer
from ssmtool.families._convolution import convolve
from ssmtool.families._discretise import expm1
from ssmtool.families._half_slots import changed_feedthrough, feedthrough
from ssmtool.families._names import (
    complete,
    dimensions,
    groups,
    layer_names,
    number,
    option,
    resized,
    to_complex,
    to_pairs,
)
from ssmtool.lti.systems import DiagonalSystem

SUMMARY = "DSS: N complex modes shared by all channels; softmax, exp and clip versions"
REFERENCE = "Gupta, Gu, Berant, NeurIPS 2022, arXiv:2203.14343; ag1988/dss, standalone/dss.py"
VARIANTS = ("softmax", "softmax-bidirectional", "exp", "exp-re-im", "exp-no-scale", "clip", "clip-no-scale")
STEPS = ("log_dt",)

# Lambda tensors -> the versions that store them, the class default first.
_VERSIONS = {
    ("Lambda",): ("softmax", "clip", "clip-no-scale"),
    ("Lambda_log_neg_re", "Lambda_im"): ("exp", "exp-no-scale"),
    ("Lambda_log_neg_re", "Lambda_log_im"): ("exp-re-im",),
}
_KNOWN = tuple(v for versions in _VERSIONS.values() for v in versions)
_LAYOUT = {
    "kernel.W": "K H N 2",
    "D": "c H",
    "kernel.Lambda": "N 2",
    "kernel.Lambda_log_neg_re": "N",
    "kernel.Lambda_im": "N",
    "kernel.Lambda_log_im": "N",
}
_EPSILON = 1e-7  # of the softmax reciprocal, unless configured
_CLAMP = 1e-7  # of 1 / Lambda elsewhere
_SAME_POLE = 1e-6  # relative; poles of a reduced layer this close to a stored one are that one
_PADDING = -1.0  # eigenvalue written in a slot that no channel uses


def layers(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any] | None) -> tuple[Layer, ...]:
    """The DSS layers of a checkpoint, found by kernel.Lambda*. Raises FamilyError for inconsistent tensors."""
    found = {}
    for anchor in ("kernel.Lambda", "kernel.Lambda_log_neg_re"):
        found |= groups(tensors, anchor, ("kernel.log_dt", *_LAYOUT))
    names = layer_names(found)
    place = {name: i for i, name in enumerate(tensors)}
    ordered = sorted(found, key=lambda p: min(place[full] for full in found[p].values()))
    return tuple(_layer(names[p], p, found[p], tensors, config) for p in ordered)


def _layer(
    name: str, prefix: str, parts: dict[str, str], tensors: Mapping[str, TensorInfo], config: Mapping[str, Any] | None
) -> Layer:
    complete(prefix, parts, ("kernel.W", "kernel.log_dt", "D"))
    eigen = tuple(s.rpartition(".")[2] for s in parts if "Lambda" in s)
    if eigen not in _VERSIONS:
        raise FamilyError(f"{' and '.join(eigen)} do not make a DSS version", where=name)
    steps = "H" if len(tensors[parts["kernel.log_dt"]].shape) == 1 else "H 2"
    size = dimensions(tensors, parts, _LAYOUT | {"kernel.log_dt": steps})
    K, rows = size["K"], size["c"]
    if K not in (rows, 2 * rows):
        raise FamilyError(
            f"{parts['kernel.W']} {tensors[parts['kernel.W']].shape} has neither as many kernel rows as "
            f"{parts['D']} {tensors[parts['D']].shape} nor twice as many",
            where=name,
        )
    chosen = option(config, "version")
    version = chosen if chosen in _KNOWN else _VERSIONS[eigen][0]
    if version not in _VERSIONS[eigen]:
        raise FamilyError(
            f"version {version!r} of the configuration does not store {' and '.join(eigen)}",
            where=name,
            remedy=f"These tensors are of {' or '.join(_VERSIONS[eigen])}.",
        )
    notes = []
    if chosen not in _KNOWN and len(_VERSIONS[eigen]) > 1:
        notes.append(f"The version is not stored; the class default {version} is assumed.")
    if version == "softmax":
        notes.append("The kernel is normalised over l_max steps and is that of one linear system only for that length.")
    return Layer(
        name=name,
        family="dss",
        variant=version,
        tensors={suffix.rpartition(".")[2]: full for suffix, full in parts.items()},
        systems=size["H"],
        inputs=1,
        outputs=K,
        slots=size["N"],
        order=2 * size["N"],
        options={
            "version": version,
            "l_max": _length(config) if version == "softmax" else None,
            "epsilon": number(config, "epsilon", default=_EPSILON),
            "max_real_Lambda": number(config, "max_real_Lambda", default=1e-4),
            "directions": K // rows,
            "reverse_lag": 1,
        },
        note=" ".join(notes),
        constraints=Constraints(shared_poles=True),
    )


def _length(config: Mapping[str, Any] | None) -> int | None:
    """Length of the sequences the model runs on; None if unknown (the class default l_max = 1 says just that)."""
    known = [number(config, key, default=0.0) for key in ("l_max", "L", "max_kernel_length")]
    lengths = [int(x) for x in known if 1 < x < inf]
    return min(lengths) if lengths else None


def _eigenvalues(layer: Layer, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Lambda, (N,) complex128."""
    if "Lambda" in arrays:
        lam = to_complex(arrays["Lambda"])
        if layer.variant.startswith("clip"):
            xp = array_namespace(lam)
            lam = at_most(xp.real(lam), layer.options["max_real_Lambda"]) + 1j * xp.imag(lam)
        return lam
    xp = array_namespace(arrays["Lambda_log_neg_re"])
    imag = arrays["Lambda_im"] if "Lambda_im" in arrays else xp.exp(arrays["Lambda_log_im"])
    return -xp.exp(arrays["Lambda_log_neg_re"]) + 1j * imag


def _steps(arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Steps of the real and the imaginary parts, (H, 1) each."""
    dt = array_namespace(arrays["log_dt"]).exp(arrays["log_dt"])
    dt = dt[:, None] if dt.ndim == 1 else dt
    return dt[:, :1], dt[:, -1:]


def _logarithms(lam: np.ndarray, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """a, (H, N) complex128."""
    slow, fast = _steps(arrays)
    xp = array_namespace(lam)
    return slow * xp.real(lam) + 1j * fast * xp.imag(lam)


def _input(layer: Layer, lam: np.ndarray, a: np.ndarray) -> np.ndarray:
    """bbar, (H, N) complex128.

    Raises:
        FamilyError: softmax without a known sequence length.
    """
    xp = array_namespace(a)
    if layer.variant.endswith("no-scale"):
        return xp.ones_like(a)
    if layer.variant != "softmax":
        return expm1(a) * lam.conj() / at_least(xp.abs(lam) ** 2, _CLAMP)
    L = layer.options["l_max"]
    if L is None:
        raise FamilyError(
            "the softmax version depends on the length of the sequences the model runs on, and l_max is not known",
            where=layer.name,
            remedy='Put "l_max" into config.json beside the checkpoint (or "version" if it is clip or clip-no-scale).',
        )
    growing = xp.real(lam) > 0
    signed = xp.where(growing, -a, a)
    x = expm1(signed * L) * lam
    shift = xp.exp(xp.where(growing, -a, xp.zeros_like(a)) * (L - 1))
    return expm1(signed) * x.conj() / (x * x.conj() + layer.options["epsilon"]) * shift


def to_system(layer: Layer, arrays: Mapping[str, np.ndarray]) -> DiagonalSystem:
    """Canonical system with B = 1 and C = W bbar. Raises FamilyError for softmax without a known length."""
    lam = _eigenvalues(layer, arrays)
    a = _logarithms(lam, arrays)
    xp = array_namespace(a)
    C = xp.permute_dims(to_complex(arrays["W"]) * _input(layer, lam, a), (1, 0, 2))
    return DiagonalSystem(a=a, B=xp.ones_like(a)[..., None], C=C, D=feedthrough(arrays["D"], layer.outputs))


def from_system(layer: Layer, arrays: Mapping[str, np.ndarray], system: DiagonalSystem) -> dict[str, np.ndarray | None]:
    """Tensors for systems that share their poles up to the steps, which stay; W takes all of B and C.

    Slots that no channel uses are padding and get a harmless eigenvalue and W = 0.

    Raises:
        FamilyError: poles that are not common to all channels, or that the version cannot store.
    """
    weight = np.swapaxes(system.C * system.B[:, None, :, 0], 0, 1)  # (K, H, n')
    lam = _shared(layer, arrays, system, np.any(weight != 0, axis=0))
    new: dict[str, np.ndarray | None] = {}
    if "Lambda" in arrays:
        if layer.variant.startswith("clip") and np.any(np.real(lam) > layer.options["max_real_Lambda"]):
            raise FamilyError("a new eigenvalue lies beyond max_real_Lambda", where=layer.name)
        new["Lambda"] = to_pairs(lam)
    else:
        if "Lambda_log_im" in arrays:  # only the upper half plane can be stored: take the other one of the pair
            flip = np.imag(lam) < 0
            lam, weight = np.where(flip, lam.conj(), lam), np.where(flip, weight.conj(), weight)
            # A real eigenvalue has no logarithm of its imaginary part; this one turns by less than float32 resolves.
            lam = np.real(lam) + 1j * np.maximum(np.imag(lam), 1e-9)
            new["Lambda_log_im"] = np.log(np.imag(lam))
        else:
            new["Lambda_im"] = np.imag(lam)
        new["Lambda_log_neg_re"] = np.log(-np.real(lam))
    new["W"] = to_pairs(weight / _input(layer, lam, _logarithms(lam, arrays)))
    return new | changed_feedthrough(layer.tensors["D"], arrays["D"], system)


def _shared(layer: Layer, arrays: Mapping[str, np.ndarray], system: DiagonalSystem, used: np.ndarray) -> np.ndarray:
    """The Lambda (n',) that gives every channel's a, taken over from the stored ones where it is one of them.

    Args:
        used: (H, n') bool, channels in which the slot has an output.

    Raises:
        FamilyError: channels disagree.
    """
    slow, fast = _steps(arrays)
    each = np.real(system.a) / slow + 1j * np.imag(system.a) / fast  # (H, n')
    count = used.sum(axis=0)
    mean = np.where(used, each, 0).sum(axis=0) / np.maximum(count, 1)
    lam = np.where(count > 0, mean, _PADDING)
    spread = np.max(np.where(used, np.abs(each - lam), 0), axis=0)
    if np.any(spread > _SAME_POLE * np.abs(lam)):
        raise FamilyError(
            f"DSS shares its eigenvalues among channels, but the new ones differ by up to {spread.max():.2g}",
            where=layer.name,
            remedy="Reduce to a common subset of the stored poles.",
        )
    stored = _eigenvalues(layer, arrays)
    nearest = stored[np.argmin(np.abs(lam[:, None] - stored), axis=1)]
    return np.where(np.abs(nearest - lam) <= _SAME_POLE * np.abs(lam), nearest, lam)


def reduced_config(config: Mapping[str, Any] | None, layer: Layer, slots: int) -> dict[str, Any]:
    """d_state (N of the kernel) counts stored modes."""
    return resized(config, ("d_state", "state_size", "N"), slots)


def tiny(variant: str, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """Two layers of four channels with d_state = 6, between an encoder and a decoder."""
    rng = np.random.default_rng(seed)
    H, N, rows = 4, 6, 2 if variant.endswith("bidirectional") else 1
    version = variant.removesuffix("-bidirectional")
    config: dict[str, Any] = {"d_model": H, "layer": {"d_state": N, "version": version}}
    if version == "softmax":
        config["l_max"] = 24
    tensors = {"model.encoder.weight": rng.normal(size=(H, 2)), "model.encoder.bias": rng.normal(size=H)}
    for i in range(2):
        p = f"model.layers.{i}.layer."
        kernel = p + "kernel."
        log_re, im = rng.normal(-0.5, 0.4, N), rng.uniform(0.2, 6.0, N)
        tensors |= {
            p + "D": rng.normal(size=(rows, H)),
            kernel + "log_dt": rng.uniform(np.log(0.05), np.log(0.4), (H, 2) if i == 0 else H),
            kernel + "W": rng.normal(size=(rows**2, H, N, 2)),
            p + "output_linear.weight": rng.normal(size=(H, rows * H)),
            p + "output_linear.bias": rng.normal(size=(H, 1)),
        }
        if version.startswith("exp"):
            tensors[kernel + "Lambda_log_neg_re"] = log_re
            log = version == "exp-re-im"
            tensors[kernel + ("Lambda_log_im" if log else "Lambda_im")] = np.log(im) if log else im
        else:
            tensors[kernel + "Lambda"] = np.stack([-np.exp(log_re), im], axis=-1)
    tensors |= {"model.decoder.weight": rng.normal(size=(3, H)), "model.decoder.bias": rng.normal(size=3)}
    return {name: x.astype(np.float32) for name, x in tensors.items()}, config


def forward(layer: Layer, arrays: Mapping[str, np.ndarray], u: np.ndarray) -> np.ndarray:
    """y = K * u + D u by the kernel formulas of the source, before activation; softmax normalised over l_max.

    Args:
        u: (L, H) float64.

    Returns:
        (L, c*H) float64, column c'*H + h; both directions summed.
    """
    lam, length = _eigenvalues(layer, arrays), u.shape[0]
    slow, fast = _steps(arrays)
    dt_lam = slow * np.real(lam) + 1j * fast * np.imag(lam)
    exponents = dt_lam[:, :, None] * np.arange(length)
    W = to_complex(arrays["W"])
    if layer.variant == "softmax":
        L = layer.options["l_max"]
        positive = np.real(lam) > 0
        exponents = exponents - (dt_lam * positive * (L - 1))[:, :, None]
        turned = dt_lam * (1 - 2 * positive)
        den = (np.exp(turned * L) - 1) * lam
        W = W * (np.exp(turned) - 1) * np.conj(den) / (den * np.conj(den) + layer.options["epsilon"])
    elif not layer.variant.endswith("no-scale"):
        W = W * (np.exp(dt_lam) - 1) * np.conj(lam) / np.maximum(np.real(lam * np.conj(lam)), _CLAMP)
    return convolve(np.real(np.einsum("khn,hnl->khl", W, np.exp(exponents))), u, arrays["D"])
