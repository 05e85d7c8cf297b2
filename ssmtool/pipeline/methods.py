"""How a layer is reduced: which method with which options, and which methods can be asked."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ssmtool import plugins
from ssmtool.errors import ReductionError, UsageError
from ssmtool.families._contract import Layer
from ssmtool.reductions._contract import SCORES, Options

REDUCTIONS = "ssmtool.reductions"
BEST = "best"


@dataclass(frozen=True)
class How:
    """A method and what it takes.

    Attributes:
        method: a reduction's name, or BEST: every method that can be asked, and the least measured error stays.
        score: of modal truncation.
        horizon: steps that matter.
        band: (low, high), frequencies that matter, radians per step.
        residues: refit the output weights of the result on the original's impulse response, over the horizon if given.
        least_slots: store no more slots than pairs of states: two real poles share the slot of a pair.
        by_name: whether the method was asked for, or is the default, which gives way where a layout cannot respect it.
    """

    method: str = "balanced"
    score: str = "last"
    horizon: int | None = None
    band: tuple[float, float] | None = None
    residues: bool = False
    least_slots: bool = False
    by_name: bool = True

    @property
    def description(self) -> str:
        """The method as reports call it."""
        return self.method + (", residues refitted" if self.residues else "")


def checked(how: How, *, calibrated: bool) -> How:
    """`how` with a method that exists and has what it needs. Raises UsageError."""
    how_method = how.method.replace("-", "_")
    known = plugins.names(REDUCTIONS)
    if how_method not in (*known, BEST):
        raise UsageError(f"there is no method {how.method!r}", remedy=f"Methods: {', '.join((*known, BEST))}")
    if how.score not in SCORES:
        raise UsageError(f"there is no score {how.score!r}", remedy=f"Scores: {', '.join(SCORES)}")
    if how.horizon is not None and how.horizon < 1:
        raise UsageError(f"--horizon {how.horizon} is not a positive number of steps")
    if how.band is not None and not 0 <= how.band[0] < how.band[1] <= math.pi + 1e-12:
        raise UsageError(
            f"--band {how.band[0]:g}:{how.band[1]:g} is not within 0 and pi",
            remedy="Give low:high in radians per step, 0 <= low < high <= pi (pi is half the sampling rate)",
        )
    given = {"horizon": how.horizon is not None, "band": how.band is not None, "seen": calibrated}
    if how_method != BEST:
        module = plugins.load(REDUCTIONS, how_method)
        words = {"horizon": "--horizon L", "band": "--band LOW:HIGH", "seen": "--calibrate FILE"}
        for need in module.NEEDS:
            if not given[need]:
                raise UsageError(f"--method {how_method} needs {words[need]}")
        for option, word in words.items():
            unused = given[option] and option not in module.OPTIONS
            if unused and option != "seen" and not (option == "horizon" and how.residues):
                raise UsageError(
                    f"--method {how_method} takes no {word.split()[0]}",
                    remedy=f"Methods that do: {', '.join(_taking(option))}",
                )
        if how.score != "last" and "score" not in module.OPTIONS:
            raise UsageError(f"--method {how_method} takes no --score", remedy="--method modal does")
    return replace(how, method=how_method)


def _taking(option: str) -> list[str]:
    return [name for name in plugins.names(REDUCTIONS) if option in plugins.load(REDUCTIONS, name).OPTIONS]


def candidates(layer: Layer, how: How, options: Options) -> tuple[str, ...]:
    """The methods to try on a layer, the simplest first.

    Raises:
        ReductionError: a layout that a method asked for by name cannot respect.
    """
    if layer.constraints.shared_poles or layer.constraints.real_poles:
        # Every other method moves the poles of every channel; the result says what was done.
        if how.by_name and how.method not in ("balanced", "subset", BEST):
            raise ReductionError(
                f"its layout shares poles among channels or stores real ones, which --method {how.method} cannot "
                "respect",
                where=layer.name,
                remedy="Use --method subset",
            )
        return ("subset",)
    if how.method != BEST:
        return (how.method,)
    given = {"horizon": options.horizon is not None, "band": options.band is not None, "seen": options.seen is not None}
    modules = {name: plugins.load(REDUCTIONS, name) for name in plugins.names(REDUCTIONS)}
    able = [name for name, module in modules.items() if all(given[need] for need in module.NEEDS)]
    return tuple(sorted(able, key=lambda name: (modules[name].COMPLEXITY, name)))
