"""Time-limited balanced truncation: what counts is the response over a horizon, such as a sequence's length."""

from __future__ import annotations

from torch import Tensor

from ssmtool.errors import UsageError
from ssmtool.lti.factors import Progress
from ssmtool.lti.hankel import hankel_singular_values
from ssmtool.lti.horizon import horizon_factor
from ssmtool.lti.realisation import Realisation
from ssmtool.lti.systems import System
from ssmtool.reductions._contract import DEFAULT, Options, Result, Target
from ssmtool.reductions._projection import projected, truncate

SUMMARY = "Balanced truncation over the first --horizon steps; no error bound"
REFERENCE = "Gawronski & Juang, Int. J. Systems Science 21 (1990); Kürschner, Adv. Comput. Math. 44 (2018)"
OPTIONS = ("horizon",)
NEEDS = ("horizon",)
COMPLEXITY = 1


def reduce(
    system: System,
    target: Target,
    *,
    options: Options = DEFAULT,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Result:
    """Square-root balanced truncation with P_T = sum_{k < T} A^k B B^T (A^T)^k and Q_T likewise.

    Stability of the result is not guaranteed: where a truncation is unstable, fewer states are kept, and a remark
    says so.

    Args:
        system: S stable systems.
        target: energy counts the time-limited singular values; an error is met by measuring.
        options: horizon T.

    Raises:
        UsageError: no horizon, one below 1, or one shorter than the order asked for.
        ReductionError: no order meets an error target.
    """
    horizon = options.horizon
    if horizon is None or horizon < 1:
        raise UsageError("time-limited truncation needs a horizon of at least one step", remedy="Give --horizon STEPS")
    spectrum = hankel_singular_values(system, device)
    most = system.order
    if target.kind == "rank":
        most = int(target.orders(spectrum).max(initial=0))
        if horizon < most:
            raise UsageError(
                f"the horizon of {horizon} steps is shorter than the order asked for, {most}",
                remedy="Give --horizon the length of the sequences the model sees, or a smaller --rank",
            )

    def factors(realisation: Realisation, piece: slice) -> tuple[Tensor, Tensor]:
        return horizon_factor(realisation, horizon), horizon_factor(realisation.dual(), horizon)

    return truncate(system, projected(system, factors, most, device, progress), spectrum, target, device, ())
