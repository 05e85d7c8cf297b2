"""Square-root balanced truncation: drops the states that are both hard to reach and hard to see."""

from __future__ import annotations

import numpy as np

from ssmtool.lti.diagonalise import diagonalise
from ssmtool.lti.factors import Progress
from ssmtool.lti.hankel import balance, hankel_singular_values
from ssmtool.lti.orders import tail_bound
from ssmtool.lti.systems import System
from ssmtool.reductions._contract import DEFAULT, Options, Result, Target

SUMMARY = "Balanced truncation (square-root): error bound 2 * sum of the dropped Hankel singular values"
REFERENCE = "Moore, IEEE TAC 26 (1981); Tombs & Postlethwaite, Int. J. Control 46 (1987); Enns 1984, Glover 1984"
OPTIONS = ()
NEEDS = ()
COMPLEXITY = 1


def reduce(
    system: System,
    target: Target,
    *,
    options: Options = DEFAULT,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Result:
    """Balanced truncation of every system to the order its Hankel singular values ask for.

    The bound 2 * sum_{k > r} sigma_k holds for the truncation; the rounding of the diagonal form and of the storage
    comes on top and is measured by the caller.

    Args:
        system: S stable systems.
        target: rank, energy or error.
    """
    if target.kind == "rank":
        most = min(target.rank, system.order)
    else:
        most = int(target.orders(hankel_singular_values(system, device)).max(initial=0))
    balanced = balance(system, max(most, 1), device, progress)
    orders = np.minimum(target.orders(balanced.spectrum), balanced.usable)
    diagonal = diagonalise(balanced.A, balanced.B, balanced.C, balanced.D, orders)
    bound = tail_bound(balanced.spectrum.sigma)[np.arange(len(orders)), diagonal.orders]
    remarks = []
    mended = sum(method != "direct" for method in diagonal.method)
    if mended:
        remarks.append(
            f"{mended} of {len(orders)} systems had ill-conditioned eigenvectors and were perturbed or refitted"
        )
    gain = 2 * np.where(np.isfinite(balanced.spectrum.sigma), balanced.spectrum.sigma, 0.0).sum(axis=1)
    return Result(
        system=diagonal.system,
        orders=diagonal.orders,
        slots=diagonal.slots,
        spectrum=balanced.spectrum,
        bound=bound,
        diagonal_error=diagonal.error * gain,  # 2 * sum of all sigma bounds the largest gain
        remarks=tuple(remarks),
    )
