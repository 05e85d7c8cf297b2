"""Band-limited balanced truncation: what counts is the frequency response within a band."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ssmtool.errors import UsageError
from ssmtool.lti.band import band_factor
from ssmtool.lti.factors import Progress
from ssmtool.lti.hankel import hankel_singular_values
from ssmtool.lti.realisation import Realisation
from ssmtool.lti.systems import System
from ssmtool.reductions._contract import DEFAULT, Options, Result, Target
from ssmtool.reductions._projection import projected, truncate

SUMMARY = "Balanced truncation over the frequencies of --band (radians per step); no error bound"
REFERENCE = "Gawronski & Juang, Int. J. Systems Science 21 (1990); Benner et al., SIAM J. Sci. Comput. 38 (2016)"
OPTIONS = ("band",)
NEEDS = ("band",)
COMPLEXITY = 1

_PI = np.pi * (1 + 1e-5)  # 3.1416 means pi


def reduce(
    system: System,
    target: Target,
    *,
    options: Options = DEFAULT,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Result:
    """Square-root balanced truncation with both Gramians integrated over low <= |omega| <= high only.

    Stability of the result is not guaranteed: where a truncation is unstable, fewer states are kept, and a remark
    says so.

    Args:
        system: S stable systems.
        target: energy counts the band-limited singular values; an error, over all frequencies, is met by measuring.
        options: band.

    Raises:
        UsageError: no band, or one that is empty or not within [0, pi].
        ReductionError: no order meets an error target.
    """
    if options.band is None:
        raise UsageError("band-limited truncation needs a band", remedy="Give --band LOW:HIGH in radians per step")
    low, high = options.band
    if not 0 <= low < high <= _PI:
        raise UsageError(
            f"the band {low:g}:{high:g} is not one of frequencies between 0 and pi = 3.14159 radians per step",
            remedy="Give --band LOW:HIGH with 0 <= LOW < HIGH <= 3.14159",
        )
    high = min(high, np.pi)
    spectrum = hankel_singular_values(system, device)
    most = int(target.orders(spectrum).max(initial=0)) if target.kind == "rank" else system.order

    def factors(realisation: Realisation, piece: slice) -> tuple[Tensor, Tensor]:
        return band_factor(realisation, low, high), band_factor(realisation.dual(), low, high)

    return truncate(system, projected(system, factors, most, device, progress), spectrum, target, device, ())
