"""Orders that meet an error target by measuring, for methods without a bound to choose by."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ssmtool.errors import ReductionError
from ssmtool.lti.hankel import Spectrum
from ssmtool.lti.norms import difference, hinf_norm
from ssmtool.lti.systems import DiagonalSystem, System


def orders_for_measured_error(
    system: System,
    spectrum: Spectrum,
    reduced: Callable[[np.ndarray], DiagonalSystem],
    most: np.ndarray,
    share: float,
    device: str,
) -> np.ndarray:
    """Orders at which the measured H-infinity error is at most `share` of the Hankel norm, system by system.

    Starts where no method could be better, sigma_{r+1} > share sigma_1; goes up in steps that double until the error is
    met, then bisects. The error need not decrease with the order: what is returned was measured, but a smaller order
    may meet the target too.

    Args:
        system: S stable systems. spectrum: theirs.
        reduced: the reduced systems for orders (S,).
        most: (S,) int64, largest orders there are.
        share: relative to sigma_1.

    Returns:
        (S,) int64.

    Raises:
        ReductionError: a system whose error is larger at every order that was tried.
    """
    scale = spectrum.sigma[:, 0]
    best = np.full(len(most), np.inf)

    def met(orders: np.ndarray) -> np.ndarray:
        error = hinf_norm(difference(system, reduced(orders)), device)
        relative = error / np.where(scale > 0, scale, 1.0)
        np.minimum(best, relative, out=best)
        return relative <= share

    low = np.minimum((spectrum.sigma > share * scale[:, None]).sum(axis=1), most)
    high, step = low.copy(), 1
    done = met(high)
    while not done.all() and (high < most)[~done].any():
        low = np.where(done, low, np.minimum(high + 1, most))
        high = np.where(done, high, np.minimum(high + step, most))
        step *= 2
        done |= met(high)
    if not done.all():
        s = int(np.argmax(np.where(done, -np.inf, best)))
        raise ReductionError(
            f"no order of this method has an error of {share:g}: the best reachable is {best[s]:.3g}",
            where=f"system {s}",
            remedy="Ask for a larger error, or use --method balanced",
        )
    while (low < high).any():
        middle = (low + high) // 2
        fits = met(np.where(low < high, middle, high))
        low, high = np.where(fits | (low >= high), low, middle + 1), np.where(fits & (low < high), middle, high)
    return high
