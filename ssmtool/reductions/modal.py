"""Modal truncation: keeps the stored poles with the largest scores, drops the others, changes nothing else."""

from __future__ import annotations

import numpy as np

from ssmtool.errors import ReductionError
from ssmtool.lti.factors import Progress
from ssmtool.lti.hankel import hankel_singular_values
from ssmtool.lti.minimal import minimal
from ssmtool.lti.systems import DiagonalSystem, System
from ssmtool.reductions._contract import DEFAULT, Options, Result, Target

SUMMARY = "Modal truncation by the score |C_i|^2 |B_i|^2 / (1 - |lambda_i|)^2 (LAST); no error bound"
REFERENCE = "Gwak et al., Layer-Adaptive State Pruning for Deep State Space Models, NeurIPS 2024, arXiv:2411.02824"
OPTIONS = ()
NEEDS = ()
COMPLEXITY = 0


def last_score(system: DiagonalSystem) -> np.ndarray:
    """(S, n) bound on the energy a mode passes: |C_i|^2 |B_i|^2 / (1 - |lambda_i|)^2."""
    gain = np.square(np.linalg.norm(system.B, axis=2) * np.linalg.norm(system.C, axis=1))
    return gain / np.expm1(system.a.real) ** 2


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

    Raises:
        ReductionError: the system is not diagonal.
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
    score = np.where(active, last_score(modes), -1.0)
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
