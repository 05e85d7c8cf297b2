"""Modal truncation: keeps the stored poles with the largest scores, drops the others, changes nothing else."""

from __future__ import annotations

import numpy as np

from ssmtool.errors import ReductionError, UsageError
from ssmtool.lti.factors import Progress
from ssmtool.lti.hankel import hankel_singular_values
from ssmtool.lti.minimal import minimal
from ssmtool.lti.modes import mode_h2_norms, mode_peak_gains
from ssmtool.lti.systems import DiagonalSystem, System
from ssmtool.reductions._contract import DEFAULT, SCORES, Options, Result, Target

SUMMARY = "Modal truncation: keeps the stored poles that score best (last, aire, hinf or h2); no error bound"
REFERENCE = "Gwak et al., Layer-Adaptive State Pruning, NeurIPS 2024, arXiv:2411.02824; AIRE-Prune, arXiv:2602.00534"
OPTIONS = ("score",)
NEEDS = ()
COMPLEXITY = 0


def scores(system: DiagonalSystem, score: str) -> np.ndarray:
    """(S, n) squared gain of every mode of minimal systems, (a, B, C) as `lti.minimal.minimal` returns them.

        last    |C_i|^2 |B_i|^2 / (1 - |lambda_i|)^2: square of a bound on the peak gain
        aire    |C_i|^2 |B_i|^2 / (1 - |lambda_i|^2): square of a bound on the H2 norm
        hinf    square of the peak gain itself, of the real system of one or two states
        h2      square of the H2 norm itself

    Raises:
        UsageError: there is no such score.
    """
    if score not in SCORES:
        raise UsageError(f"there is no score {score!r}", remedy=f"Use one of {', '.join(SCORES)}")
    if score == "hinf":
        return np.square(mode_peak_gains(system))
    if score == "h2":
        return np.square(mode_h2_norms(system))
    gain = np.square(np.linalg.norm(system.B, axis=2) * np.linalg.norm(system.C, axis=1))
    return gain / (np.expm1(system.a.real) ** 2 if score == "last" else -np.expm1(2 * system.a.real))


def normalised(score: np.ndarray) -> np.ndarray:
    """Every score divided by itself plus all larger ones of the same system: comparable between systems and layers.

    The largest becomes 1, and a mode that adds little to what the better ones already pass becomes small, whatever
    the system's own scale. The order within a system stays. To let all modes of a layer compete, hand them over as one
    row, (1, S n).

    Args:
        score: (S, n), not negative.

    Returns:
        (S, n) float64; 0 where the score is 0.

    Source: Gwak et al. 2024, section 4.
    """
    rank = np.argsort(-score, axis=1, kind="stable")
    ordered = np.take_along_axis(score, rank, axis=1)
    # Relative to the largest, so that nothing over- or underflows.
    scale = ordered[:, :1]
    ordered = np.divide(ordered, scale, out=np.zeros_like(ordered), where=scale > 0)
    share = np.divide(ordered, np.cumsum(ordered, axis=1), out=np.zeros_like(ordered), where=ordered > 0)
    out = np.empty_like(share)
    np.put_along_axis(out, rank, share, axis=1)
    return out


def reduce(
    system: System,
    target: Target,
    *,
    options: Options = DEFAULT,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Result:
    """Keeps as many of the best-scored modes of every system as the target's order has room for.

    Args:
        system: S stable diagonal systems.
        target: for energy and error, the order is the one balanced truncation would need.
        options: score, one of SCORES.

    Raises:
        ReductionError: the system is not diagonal.
        UsageError: there is no such score.
    """
    if not isinstance(system, DiagonalSystem):
        raise ReductionError(
            "modal truncation needs a layer that stores its poles", remedy="Use --method balanced for this layer."
        )
    spectrum = hankel_singular_values(system, device, progress)
    orders = target.orders(spectrum)
    reduced = minimal(system)
    a, real, active = reduced.a, reduced.real, reduced.active
    modes = DiagonalSystem(a, reduced.B, reduced.C, system.D)
    score = np.where(active, scores(modes, options.score), -1.0)
    rank = np.argsort(-score, axis=1, kind="stable")
    states = np.take_along_axis(np.where(active, np.where(real, 1, 2), 0), rank, axis=1)
    # A pair that does not fit any more is passed over; a smaller mode behind it may still fit.
    keep, kept = np.zeros_like(states, dtype=bool), np.zeros(len(orders), dtype=np.int64)
    for k in range(states.shape[1]):
        fits = (states[:, k] > 0) & (kept + states[:, k] <= orders)
        keep[:, k] = fits
        kept += np.where(fits, states[:, k], 0)
    slots = keep.sum(axis=1)
    width = max(1, int(slots.max(initial=0)))
    place = np.take_along_axis(rank, np.argsort(~keep, axis=1, kind="stable"), axis=1)[:, :width]
    used = np.arange(width) < slots[:, None]
    row = np.arange(len(orders))[:, None]
    smaller = DiagonalSystem(
        np.where(used, a[row, place], -1.0),
        np.where(used[:, :, None], reduced.B[row, place], 0.0),
        np.where(used[:, None, :], np.take_along_axis(reduced.C, place[:, None, :], axis=2), 0.0),
        system.D,
    )
    return Result(smaller, kept, slots, spectrum, np.full(len(orders), np.nan))
