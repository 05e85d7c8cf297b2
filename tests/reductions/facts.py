"""What the conformance suite has to know of each method; a method without an entry promises everything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ssmtool.lti.systems import DenseSystem, System
from ssmtool.reductions._contract import DEFAULT, Options, Seen


def needs_poles(system: System) -> bool:
    """Methods that pick stored poles have none to pick from in a dense system."""
    return isinstance(system, DenseSystem)


@dataclass(frozen=True)
class Facts:
    """One method.

    Attributes:
        options: what it is given.
        data: whether it is given calibration data too, white noise.
        refuses: whether a system is one it must refuse with a ReductionError.
        moves_feedthrough: D of the result may differ from the original's.
        needs_feedthrough: the method reduces D + C B, not C B alone.
        meets_errors: an error target holds for the measured H-infinity error.
        smallest: an energy target gives the smallest order that meets it.
        halves_pairs: an odd order is possible; False if at least one pair is kept.
        full: tolerance to which the full order reproduces the impulse response; None if it need not.
        grows: the a priori bound never grows with the order.
    """

    options: Options = DEFAULT
    data: bool = False
    refuses: Callable[[System], bool] = lambda system: False
    moves_feedthrough: bool = False
    needs_feedthrough: bool = False
    meets_errors: bool = True
    smallest: bool = False
    halves_pairs: bool = True
    full: float | None = 1e-9
    grows: bool = True

    def given(self, system: System) -> Options:
        """The options for one batch of systems."""
        if not self.data:
            return self.options
        noise = np.random.default_rng(0).standard_normal((4, system.systems, 50, system.inputs))
        return replace(self.options, seen=Seen(noise))


FACTS = {
    "balanced": Facts(smallest=True),
    "h2_optimal": Facts(),
    "hankel_norm": Facts(moves_feedthrough=True),
    "modal": Facts(refuses=needs_poles, meets_errors=False),
    "residualised": Facts(moves_feedthrough=True),
    "relative_error": Facts(
        refuses=lambda system: system.inputs != system.outputs,
        moves_feedthrough=True,
        needs_feedthrough=True,
        grows=False,  # NaN until the states that belong to zeros outside the circle are kept
    ),
    "band_limited": Facts(options=Options(band=(0.1, 2.0))),
    "input_weighted": Facts(data=True),
    "time_limited": Facts(options=Options(horizon=40)),
    "subset": Facts(refuses=lambda system: needs_poles(system) or system.inputs != 1, halves_pairs=False),
}


def facts(name: str) -> Facts:
    return FACTS.get(name, Facts())
