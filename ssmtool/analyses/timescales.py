"""Stability and time scales: how fast the modes of a layer forget."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ssmtool.analyses._contract import NEEDS_TOKENS, Observer, Panel, Section, Seen, Table, Verdict
from ssmtool.analyses._linear import eigenvalues, horizon
from ssmtool.analyses._numbers import Quantiles, curve, floats, quantiles
from ssmtool.analyses._steps import Pace, StepHistogram, pace
from ssmtool.lti.systems import DiagonalSystem, System
from ssmtool.selective.mixers import Mixer

SUMMARY = "Stability and time scales: spectral radius, half-lives, memory horizon"
REFERENCE = "Gu & Dao 2023 (decay exp(dt A)); half-life ln 2 / -ln|eigenvalue|"

_EDGES = np.arange(-3.0, 6.01, 0.25)  # decades of steps
_LOCAL = 0.5  # share of modes faster than a step from which the section says so
_NEVER = 0.05  # share of modes slower than the sequences


@dataclass(frozen=True)
class LayerTimes:
    """Time scales of one layer, in steps (tokens).

    Attributes:
        name: row name.
        kind: "linear" or "selective".
        source: what the numbers rest on: "weights"; "dt_bias alone", the step a zero input would give, for a selective
            layer without tokens; "tokens", the steps it takes on data.
        modes: how many the quantiles are over, as stored.
        radius: largest modulus of an eigenvalue; of a selective layer, exp(-a E[dt]), the mean decay per step.
        margin: 1 - radius.
        half_life: ln 2 / -ln|eigenvalue| over modes; with tokens ln 2 / (a dt) over modes and tokens.
        horizon: per system, delay after which 1 % of the energy of the impulse response is left; None when selective.
        faster_than_a_step: share of the modes (and tokens) with half-life below 1.
        histogram: share of the modes (and tokens) per bin of half-life.
    """

    name: str
    kind: str
    source: str
    modes: int
    radius: float
    margin: float
    half_life: Quantiles
    horizon: Quantiles | None
    faster_than_a_step: float
    histogram: tuple[float, ...]


@dataclass(frozen=True)
class Timescales(Section):
    """Every layer's time scales.

    Attributes:
        edges: of the bins of `histogram`, in decades: log10 of the half-life in steps; the outer bins hold what lies
            outside.
        longest_seen: tokens per sequence, 0 without tokens.
    """

    edges: tuple[float, ...]
    longest_seen: int
    layers: tuple[LayerTimes, ...]

    def tables(self) -> tuple[Table, ...]:
        if not self.layers:
            return ()
        rows = tuple(
            (
                row.name,
                row.source,
                row.modes,
                row.radius,
                row.half_life.tenth,
                row.half_life.median,
                row.half_life.ninetieth,
                None if row.horizon is None else row.horizon.median,
                f"{100 * row.faster_than_a_step:.0f} %",
            )
            for row in self.layers
        )
        columns = ("layer", "from", "modes", "radius", "10 %", "median", "90 %", "99 %\nenergy", "under\n1 step")
        return (
            Table(
                columns,
                rows,
                "Half-lives in steps: 10 %, median, 90 % of the modes. 99 % energy: delay that holds 99 % of the "
                "impulse response's energy, median over systems. Under 1 step: modes that forget half within one step.",
            ),
        )

    def panels(self) -> tuple[Panel, ...]:
        if not self.layers:
            return ()
        edges = np.array(self.edges)
        centres = 10.0 ** ((edges[:-1] + edges[1:]) / 2)
        used = np.flatnonzero(np.array([row.histogram for row in self.layers]).sum(0))
        shown = slice(max(used[0] - 1, 0), used[-1] + 2)  # an empty bin at either end, so that the steps close
        curves = tuple(curve(centres[shown], row.histogram[shown], row.name) for row in self.layers)
        return (
            Panel("Half-lives", "half-life in steps", "share of modes", curves, "step", x_log=True, by_layer=True),
            Panel(
                "Half-life by depth",
                "layer",
                "half-life in steps",
                tuple(
                    curve(range(len(self.layers)), [getattr(row.half_life, part) for row in self.layers], label)
                    for part, label in (("tenth", "10 %"), ("median", "median"), ("ninetieth", "90 %"))
                ),
                "point",
                y_log=True,
            ),
        )


class Times(Observer):
    """Collects eigenvalues, and the steps that selective layers take."""

    def __init__(self) -> None:
        super().__init__()
        self._paces: dict[str, Pace] = {}
        self._steps: dict[str, StepHistogram] = {}
        self._length = 0

    def row(self, name: str, system: System) -> LayerTimes:
        """As `Observer.row`."""
        decay = -eigenvalues(system).real
        with np.errstate(divide="ignore"):
            life = np.where(decay > 0, np.log(2) / decay, np.inf)
        slots = np.ones(life.shape, dtype=bool)
        if isinstance(system, DiagonalSystem):  # modes that do nothing have no say, unless all are such
            slots = (np.abs(system.B).max(-1) > 0) & (np.abs(system.C).max(1) > 0)
            slots |= ~slots.any()
        radius = float(np.exp(-decay[slots].min()))
        return LayerTimes(
            name,
            "linear",
            "weights",
            int(slots.sum()),
            radius,
            float(-np.expm1(-decay[slots].min())),
            quantiles(life[slots]),
            quantiles(horizon(system)),
            float((life[slots] < 1).mean()),
            _histogram(np.log10(np.maximum(life[slots], 1e-300))),
        )

    def selective(self, name: str, mixer: Mixer) -> None:
        """As `Observer.selective`."""
        self._paces[name] = pace(mixer)

    def see(self, seen: Seen) -> None:
        """As `Observer.see`."""
        self._length = max(self._length, seen.tokens.shape[1])
        for name, part in seen.passes.items():
            self._steps.setdefault(name, StepHistogram()).add(part.trace.dt)

    def result(self) -> Timescales:
        """As `Observer.result`."""
        layers = list(self.rows)
        for name, found in self._paces.items():
            steps = self._steps.get(name)
            layers.append(_weights_alone(name, found) if steps is None else _attained(name, found, steps))
        missing = ()
        if self._paces and not self._steps:
            missing = (f"attained decay: {NEEDS_TOKENS}; shown is the step of dt_bias alone",)
        verdicts = tuple(Verdict(row.name, text) for row in layers for text in _words(row, self._length))
        return Timescales(verdicts, missing, floats(_EDGES), self._length, tuple(layers))


def start() -> Times:
    """An observer for one model."""
    return Times()


def _weights_alone(name: str, pace: Pace) -> LayerTimes:
    decay = pace.steps[:, None] * pace.rates
    life = np.log(2) / decay
    return LayerTimes(
        name,
        "selective",
        "dt_bias alone",
        life.size,
        float(np.exp(-decay.min())),
        float(-np.expm1(-decay.min())),
        quantiles(life),
        None,
        float((life < 1).mean()),
        _histogram(np.log10(life)),
    )


def _attained(name: str, pace: Pace, steps: StepHistogram) -> LayerTimes:
    rate = pace.rates
    slowest = float((steps.mean()[:, None] * rate).min())
    centres, counts = steps.log10_bins()  # (bins,), (E, bins)
    life = np.log10(np.log(2)) - centres - np.log10(rate)[..., None]  # (E, N, bins)
    weight = np.broadcast_to(counts[:, None], life.shape)
    share = weight / weight.sum()
    return LayerTimes(
        name,
        "selective",
        "tokens",
        rate.size,
        float(np.exp(-slowest)),
        float(-np.expm1(-slowest)),
        quantiles(10.0**life, share),
        None,
        float(share[life < 0].sum()),
        _histogram(life, share),
    )


def _histogram(log_life: np.ndarray, weights: np.ndarray | None = None) -> tuple[float, ...]:
    clipped = np.clip(np.ravel(log_life), _EDGES[0], np.nextafter(_EDGES[-1], 0))
    counts, _ = np.histogram(clipped, _EDGES, weights=None if weights is None else np.ravel(weights))
    return floats(counts / counts.sum())


def _words(row: LayerTimes, length: int) -> list[str]:
    found = []
    if row.kind == "linear" and row.margin <= 0:
        found.append(
            f"has an eigenvalue of modulus {row.radius:.6g}: it does not forget, or grows; no bound holds for it and "
            "it cannot be reduced as it is"
        )
    if row.faster_than_a_step >= _LOCAL:
        found.append(
            f"{100 * row.faster_than_a_step:.0f} % of its modes forget half within one step: they work as a short "
            "local filter, and are the first candidates for removal"
        )
    if length and row.kind == "selective":
        edges = np.array(_EDGES)
        slow = sum(share for low, share in zip(edges, row.histogram, strict=False) if 10.0**low >= length)
        if slow >= _NEVER:
            found.append(
                f"{100 * slow:.0f} % of its steps have half-lives beyond the {length} tokens seen: it holds on to what "
                "it read; measure on longer sequences before trusting a horizon"
            )
    return found
