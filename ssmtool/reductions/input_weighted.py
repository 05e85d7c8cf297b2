"""Balanced truncation for the inputs a layer really sees and the outputs the model really uses."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ssmtool.errors import CalibrationError, UsageError
from ssmtool.lti.driven import driven_factor
from ssmtool.lti.factors import Progress
from ssmtool.lti.hankel import hankel_singular_values
from ssmtool.lti.horizon import horizon_factor
from ssmtool.lti.realisation import Realisation
from ssmtool.lti.systems import System
from ssmtool.reductions._contract import DEFAULT, Options, Result, Seen, Target
from ssmtool.reductions._projection import projected, truncate

SUMMARY = "Balanced truncation weighted by calibration inputs and by what the model's output minds; no error bound"
REFERENCE = (
    "Moore, IEEE TAC 26 (1981), empirical Gramians; Enns, CDC 1984, frequency weights; docs/reductions-weighted.md"
)
OPTIONS = ("seen",)
NEEDS = ("seen",)
COMPLEXITY = 1

_CONSTANT = 1e-12  # spread of an input, relative to its size, that is none
_EXCITED = 1e-12  # simulated states carry the rounding of many steps: directions below this share are not excited


def reduce(
    system: System,
    target: Target,
    *,
    options: Options = DEFAULT,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Result:
    """Square-root balanced truncation with P = E[x x^T] on the data and Q = sum_k (A^T)^k C^T W C A^k.

    Systems whose own inputs are constant, such as dead channels, keep the P of white noise. Data that excite few states
    limit the order; a remark says so. Stability of the result is not guaranteed: where a truncation is unstable, fewer
    states are kept.

    Args:
        system: S stable systems.
        target: energy counts the weighted singular values; an error is met by measuring.
        options: seen.

    Raises:
        UsageError: no calibration data.
        CalibrationError: data of another shape, not finite, or without variance in any system; a weight that is not
            positive semi-definite.
        ReductionError: no order meets an error target.
    """
    seen = options.seen
    if seen is None:
        raise UsageError("input-weighted truncation needs calibration inputs", remedy="Give --calibrate FILE")
    silent = _constant(system, seen)
    root = None if seen.weight is None else _roots(system, seen.weight)
    spectrum = hankel_singular_values(system, device)
    most = int(target.orders(spectrum).max(initial=0)) if target.kind == "rank" else system.order

    def factors(realisation: Realisation, piece: slice) -> tuple[Tensor, Tensor]:
        L = driven_factor(realisation, seen.inputs[:, piece])
        if silent[piece].any():
            white = horizon_factor(realisation, None)
            width = max(L.shape[2], white.shape[2])
            L, white = (torch.nn.functional.pad(X, (0, width - X.shape[2])) for X in (L, white))
            L = torch.where(torch.from_numpy(silent[piece]).to(L.device)[:, None, None], white, L)
        if root is not None:
            realisation = realisation.seen_through(torch.from_numpy(root[piece]).to(L.device))
        return L, horizon_factor(realisation.dual(), None)

    realisation = projected(system, factors, most, device, progress, negligible=_EXCITED)
    remarks, count = [], system.systems
    if silent.any():
        remarks.append(
            f"{silent.sum()} of {count} systems have constant inputs in the calibration data: for these "
            "every input counts the same"
        )
    if target.kind == "rank":
        short = int((realisation.usable < target.orders(spectrum)).sum())
        if short:
            remarks.append(f"the calibration data excite fewer states than asked for in {short} of {count} systems")
    return truncate(system, realisation, spectrum, target, device, tuple(remarks))


def _constant(system: System, seen: Seen) -> np.ndarray:
    """(S,) bool: systems whose inputs never change."""
    inputs, where = seen.inputs, "calibration inputs"
    if inputs.ndim != 4 or (inputs.shape[1], inputs.shape[3]) != (system.systems, system.inputs) or not inputs.size:
        raise CalibrationError(
            f"expected (sequences, {system.systems}, steps, {system.inputs}), found {inputs.shape}", where=where
        )
    if not np.isfinite(inputs).all():
        raise CalibrationError("not all values are finite", where=where, remedy="Look for overflow in the model's run")
    low, high = inputs.min(axis=(0, 2)), inputs.max(axis=(0, 2))
    constant = (high - low <= _CONSTANT * np.maximum(np.abs(low), np.abs(high))).all(axis=1)
    if constant.all():
        raise CalibrationError(
            "zero variance: the inputs of every system are constant", where=where, remedy="Calibrate on varied data"
        )
    return constant


def _roots(system: System, weight: np.ndarray) -> np.ndarray:
    """(S, p, p): X with X^T X = weight."""
    p = system.outputs
    if weight.shape != (system.systems, p, p):
        raise CalibrationError(f"expected a weight ({system.systems}, {p}, {p}), found {weight.shape}", where="outputs")
    values, vectors = np.linalg.eigh((weight + weight.swapaxes(1, 2)) / 2)
    if not (np.isfinite(values).all() and (values[:, 0] >= -1e-9 * values[:, -1]).all()):
        raise CalibrationError("the weight is not positive semi-definite", where="outputs")
    return np.sqrt(np.maximum(values, 0.0))[:, :, None] * vectors.swapaxes(1, 2)
