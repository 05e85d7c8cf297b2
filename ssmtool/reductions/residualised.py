"""Balanced residualisation: the states that balanced truncation drops are held at their steady value instead.

The response to a constant input stays exactly what it was, at the price of another D.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ssmtool.errors import ReductionError
from ssmtool.lti.diagonalise import Diagonalised, diagonalise
from ssmtool.lti.factors import Progress
from ssmtool.lti.hankel import Balanced, balance, hankel_singular_values
from ssmtool.lti.orders import tail_bound
from ssmtool.lti.systems import System
from ssmtool.lti.textbook import current_input, steady_gain, textbook
from ssmtool.reductions._contract import DEFAULT, Options, Result, Target

SUMMARY = "Balanced residualisation: keeps the gain at frequency 0 exactly, changes D; bound as for truncation, or less"
REFERENCE = "Fernando & Nicholson, IEEE TAC 27 (1982); Al-Saggaf & Franklin, IEEE TAC 33 (1988); Liu & Anderson 1989"
OPTIONS = ("feedthrough",)
NEEDS = ()
COMPLEXITY = 2


def reduce(
    system: System,
    target: Target,
    *,
    options: Options = DEFAULT,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Result:
    """Residualises every system to the order its Hankel singular values ask for.

    Works on the textbook form (A, B, C A, D + C B), balanced, split after r states, with N = (I - A22)^-1:

        A_s = A11 + A12 N A21,  B_s = B1 + A12 N B2,  C_s = C1 + C2 N A21,  D_s = D + C2 N B2.

    The bound is 2 * sum_{k > r} sigma_k of that form, which is no more than that of truncation.

    Args:
        system: S stable systems.
        target: rank and energy as in balanced truncation; error through the bound.
        options: feedthrough must be True.

    Raises:
        ReductionError: D may not change.
    """
    if not options.feedthrough:
        raise ReductionError(
            "residualisation changes the feedthrough D, which has to stay here", remedy="Use --method balanced"
        )
    spectrum = hankel_singular_values(system, device)
    shifted = textbook(system)
    balanced = balance(shifted, system.order, device, progress)
    bounds = tail_bound(balanced.spectrum.sigma)
    if target.kind == "error":
        orders = np.argmax(bounds <= target.share * spectrum.sigma[:, :1], axis=1)
    else:
        orders = target.orders(spectrum)
    orders = np.minimum(orders, balanced.usable)
    diagonal = _residualise(balanced, orders)
    while (diagonal.orders < orders).any():
        # Rounding pushed a pole onto the unit circle: one state less, with the states that then stay behind.
        orders = diagonal.orders
        diagonal = _residualise(balanced, orders)
    reduced, moved = current_input(diagonal.system)
    # Whatever rounding, the diagonal form and states below the resolution of a projection have cost: none of it at 1.
    reduced = replace(reduced, D=reduced.D + (steady_gain(system) - steady_gain(reduced)))
    gain = 2 * balanced.spectrum.sigma.sum(axis=1) + np.linalg.norm(diagonal.system.D, axis=(1, 2))
    return Result(
        system=reduced,
        orders=orders,
        slots=diagonal.slots,
        spectrum=spectrum,
        bound=bounds[np.arange(len(orders)), orders],
        diagonal_error=diagonal.error * gain + moved,
    )


def _residualise(balanced: Balanced, orders: np.ndarray) -> Diagonalised:
    """Poles and residues, in textbook form, of every system with its states from orders[s] on held at rest."""
    A, B, C, D = (part.copy() for part in (balanced.A, balanced.B, balanced.C, balanced.D))
    for r in np.unique(orders):
        index = np.flatnonzero(orders == r)
        A11, A12 = A[index, :r, :r], A[index, :r, r:]
        A21, A22 = A[index, r:, :r], A[index, r:, r:]
        settled = np.linalg.solve(np.eye(A22.shape[1]) - A22, np.concatenate([A21, B[index, r:]], axis=2))
        NA, NB = settled[:, :, :r], settled[:, :, r:]
        C2 = C[index, :, r:]
        A[index, :r, :r] = A11 + A12 @ NA
        B[index, :r] = B[index, :r] + A12 @ NB
        C[index, :, :r] = C[index, :, :r] + C2 @ NA
        D[index] = D[index] + C2 @ NB
    return diagonalise(A, B, C, D, orders)
