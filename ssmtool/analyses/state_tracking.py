"""State tracking: which eigenvalues the transitions can take, and which counting that rules out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ssmtool.analyses._contract import NEEDS_TOKENS, Curve, Observer, Panel, Section, Seen, Table, Verdict
from ssmtool.analyses._linear import eigenvalues
from ssmtool.analyses._numbers import curve, floats
from ssmtool.analyses._steps import Pace, StepRange, pace
from ssmtool.lti.systems import DiagonalSystem, System
from ssmtool.selective.mixers import Mixer

SUMMARY = "State tracking: reachable eigenvalues of the transition and what they rule out"
REFERENCE = (
    "Grazzi et al., ICLR 2025 (negative eigenvalues); Merrill et al., ICML 2024 (illusion of state); "
    "Sarrof et al., NeurIPS 2024"
)

HOLD, RESET = 0.9, 0.1
_BINS = 20
_REAL = 1e-6  # radians per step; a smaller angle is that of a real eigenvalue


@dataclass(frozen=True)
class LayerTracking:
    """Eigenvalues of one layer's transitions.

    Attributes:
        name: row name.
        kind: "linear": one transition for all tokens; "selective": a positive real one per token and mode.
        reachable: the set the eigenvalues lie in whatever the input.
        source: "weights", "dt_bias alone" or "tokens".
        smallest, largest: least and greatest modulus attained.
        negative: share of modes with a negative real eigenvalue.
        complex: share of modes with an angle strictly between 0 and pi.
        turning_half_life: longest half-life in steps among the negative and complex modes: for about so long a count
            modulo m can last; 0 without any.
        angles: share of modes per twentieth of [0, pi], the angle of the eigenvalue in radians per step; empty when
            selective, all angles being 0.
        latching: share of channel-state pairs that both hold (decay > 0.9) and reset (decay < 0.1) on some tokens; None
            without tokens, or when linear.
        spread: per share of modes 0, 1/20, ..., 1: quantile of the range, largest minus smallest decay that a mode
            takes over tokens; empty without tokens.
    """

    name: str
    kind: str
    reachable: str
    source: str
    smallest: float
    largest: float
    negative: float
    complex: float
    turning_half_life: float
    angles: tuple[float, ...]
    latching: float | None
    spread: tuple[float, ...]


@dataclass(frozen=True)
class StateTracking(Section):
    """Every layer's reachable and attained eigenvalues.

    Attributes:
        parity: whether the eigenvalues leave room for parity, (11)*, at any length in finite precision: a necessary
            condition only.
        modular: the same for counting modulo m, m not a power of two.
    """

    parity: bool
    modular: bool
    layers: tuple[LayerTracking, ...]

    def tables(self) -> tuple[Table, ...]:
        if not self.layers:
            return ()
        rows = tuple(
            (
                row.name,
                row.reachable,
                row.source,
                row.smallest,
                row.largest,
                f"{100 * row.negative:.0f} %",
                f"{100 * row.complex:.0f} %",
                row.turning_half_life,
                None if row.latching is None else f"{100 * row.latching:.0f} %",
            )
            for row in self.layers
        )
        columns = ("layer", "eigenvalues", "from", "least |λ|", "most |λ|", "λ < 0", "complex", "half-life", "latching")
        note = (
            "Half-life: longest among negative and complex eigenvalues, steps. Latching: modes that both hold (decay "
            f"over {HOLD}) and reset (under {RESET}) on some tokens."
        )
        return (Table(columns, rows, note),)

    def panels(self) -> tuple[Panel, ...]:
        if not self.layers:
            return ()
        places = range(len(self.layers))
        panels = [
            Panel(
                "Modulus of the eigenvalues attained",
                "layer",
                "|λ|",
                (
                    curve(places, [row.largest for row in self.layers], "largest"),
                    curve(places, [row.smallest for row in self.layers], "smallest"),
                ),
                "point",
            )
        ]
        ranges = tuple(
            Curve(tuple(np.linspace(0, 100, len(row.spread)).tolist()), row.spread, row.name)
            for row in self.layers
            if row.spread
        )
        if ranges:
            panels.append(
                Panel(
                    "How far a mode's decay moves over tokens",
                    "% of modes, sorted",
                    "largest − smallest decay",
                    ranges,
                    by_layer=True,
                )
            )
        if any(row.angles for row in self.layers):
            centres = (np.arange(_BINS) + 0.5) / _BINS
            panels.append(
                Panel(
                    "Angles of the eigenvalues",
                    "angle / π, per step",
                    "share of modes",
                    tuple(curve(centres, row.angles, row.name) for row in self.layers if row.angles),
                    "step",
                    by_layer=True,
                )
            )
        return tuple(panels)


class Tracking(Observer):
    """Collects eigenvalues and the steps that move them."""

    def __init__(self) -> None:
        super().__init__()
        self._paces: dict[str, Pace] = {}
        self._steps: dict[str, StepRange] = {}

    def row(self, name: str, system: System) -> LayerTracking:
        """As `Observer.row`."""
        a = eigenvalues(system)
        used = np.ones(a.shape, dtype=bool)
        if isinstance(system, DiagonalSystem):
            used = (np.abs(system.B).max(-1) > 0) & (np.abs(system.C).max(1) > 0)
            used |= ~used.any()
        angle = np.abs((a.imag[used] + np.pi) % (2 * np.pi) - np.pi)
        decay = -a.real[used]
        negative, turning = angle > np.pi - _REAL, (angle >= _REAL) & (angle <= np.pi - _REAL)
        with np.errstate(divide="ignore"):
            life = np.where(decay > 0, np.log(2) / decay, np.inf)
        return LayerTracking(
            name,
            "linear",
            "fixed, real" if not turning.any() else "fixed, complex",
            "weights",
            float(np.exp(-decay.max())),
            float(np.exp(-decay.min())),
            float(negative.mean()),
            float(turning.mean()),
            float(life[negative | turning].max(initial=0.0)),
            floats(np.histogram(angle, _BINS, (0, np.pi))[0] / angle.size),
            None,
            (),
        )

    def selective(self, name: str, mixer: Mixer) -> None:
        """As `Observer.selective`."""
        self._paces[name] = pace(mixer)

    def see(self, seen: Seen) -> None:
        """As `Observer.see`."""
        for name, part in seen.passes.items():
            self._steps.setdefault(name, StepRange()).add(part.trace.dt)

    def result(self) -> StateTracking:
        """As `Observer.result`."""
        layers = [*self.rows, *(_decays(name, found, self._steps.get(name)) for name, found in self._paces.items())]
        missing = ()
        if self._paces and not self._steps:
            missing = (f"attained decays and latching: {NEEDS_TOKENS}; shown is the step of dt_bias alone",)
        modular = any(row.complex > 0 for row in layers)
        parity = modular or any(row.negative > 0 for row in layers)
        verdicts = [*_model_words(layers, parity, modular), *_layer_words(layers)]
        return StateTracking(tuple(verdicts), missing, parity, modular, tuple(layers))


def start() -> Tracking:
    """An observer for one model."""
    return Tracking()


def _decays(name: str, pace: Pace, steps: StepRange | None) -> LayerTracking:
    least, most = (pace.steps,) * 2 if steps is None else steps.extremes()
    low, high = np.exp(-most[:, None] * pace.rates), np.exp(-least[:, None] * pace.rates)
    latching, spread = None, ()
    if steps is not None:
        latching = float(((low < RESET) & (high > HOLD)).mean())
        spread = tuple(np.quantile(high - low, np.linspace(0, 1, 21)).tolist())
    source = "dt_bias alone" if steps is None else "tokens"
    return LayerTracking(
        name, "selective", "(0, 1)", source, float(low.min()), float(high.max()), 0.0, 0.0, 0.0, (), latching, spread
    )


def _model_words(layers: list[LayerTracking], parity: bool, modular: bool) -> list[Verdict]:
    found = []
    if not layers:
        return found
    if not parity:
        found.append(
            "every transition has positive real eigenvalues only: at any depth and in finite precision the state-space "
            "layers cannot learn parity, nor counting modulo m, for all lengths (Grazzi et al., theorems 1 and 2); "
            "more states or data will not change that, eigenvalues in (-1, 1) would. Star-free languages such as "
            "flip-flop remain in reach (Sarrof et al.)"
        )
    elif not modular:
        found.append(
            "there are negative but no complex eigenvalues: parity is not ruled out; counting modulo m for m that is "
            "no power of two is, for transitions whose products stay real (Grazzi et al., theorem 2)"
        )
    if any(row.kind == "linear" for row in layers) and parity:
        longest = max(row.turning_half_life for row in layers)
        lasts = "for ever" if np.isinf(longest) else f"for {longest:.0f} steps at most"
        found.append(
            "time-invariant transitions turn at a fixed pace: they count positions, not events, and keep half of a "
            f"count {lasts}; what has to be counted must come through the non-linear parts between layers"
        )
    found.append(
        "permutation composition (S5), and with it exact tracking of general state machines, is out of reach of "
        "diagonal and of time-invariant transitions at any size (Merrill et al.; unless TC0 = NC1)"
    )
    return [Verdict("", text) for text in found]


def _layer_words(layers: list[LayerTracking]) -> list[Verdict]:
    found = []
    for row in layers:
        if row.latching is not None and row.latching < 0.01:
            found.append(
                Verdict(
                    row.name,
                    "hardly any mode both holds and resets: the layer smooths or forgets at a nearly fixed pace, and "
                    "does not latch values",
                )
            )
    return found
