"""Memory in use: how many states carry the output, how far back it reaches, and whether the state stays bounded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ssmtool.analyses._attention import Reach, ReachMeter
from ssmtool.analyses._contract import NEEDS_TOKENS, Observer, Panel, Section, Seen, Table, Verdict
from ssmtool.analyses._growth import state_growth
from ssmtool.analyses._linear import mean_delay
from ssmtool.analyses._numbers import curve, effective_rank, floats
from ssmtool.analyses._projected import as_read, states_run
from ssmtool.errors import CalibrationError
from ssmtool.lti.hankel import hankel_singular_values
from ssmtool.lti.orders import order_for_energy
from ssmtool.lti.systems import System
from ssmtool.selective.language import Runner
from ssmtool.selective.mixers import Mixer
from ssmtool.selective.spectrum import entropy_size, require_full, root
from ssmtool.selective.statistics import Calibration, Statistics

SUMMARY = "Memory in use: effective state size, reach of the hidden attention, state growth beyond the length seen"
REFERENCE = (
    "Ali et al. 2024 (hidden attention); Wang et al., ICLR 2025 (recency, over-smoothing); Chen et al. 2024 (state "
    "collapse)"
)

STRIDE = 8  # every eighth state enters the Gramians
FINE, COARSE = 0.01, 0.1  # relative errors of the layer's output for which states are counted
SPARE, FULL = 0.5, 0.8  # shares of the states from which a verdict calls them spare, or all in use
GROWING = 1.5


@dataclass(frozen=True)
class LayerMemory:
    """What one layer's state is used for.

    Attributes:
        name: row name.
        kind: "linear" or "selective".
        states: per system (linear, of the real system) or per group (selective, N).
        effective: exp of the entropy of p: of sigma_k^2 / sum sigma^2 for Hankel singular values, median over systems,
            and for calibrated ones, mean over groups; None without tokens.
        needed, roughly: fewest states with the tail sqrt(sum_{k>r} sigma_k^2 / sum sigma_k^2) at most 1 % and 10 %;
            largest over systems; None without tokens.
        profile: sigma_k / sigma_1, median over systems or groups; empty without tokens.
        mean_distance: E of t - s weighted with the hidden attention |alpha_{t,s}|, tokens (linear: with |h_k|^2).
        reach: distance that holds 90 % of that weight; None when linear (see section timescales).
        recency: slope of ln mean |alpha| against t - s, nats per token; None when linear.
        attention: mean share of the weight at distance 2^j <= t - s < 2^(j+1), the first bin being t = s alone.
        smoothness: share of the energy of the tokens after the block that lies in their mean over the sequence.
        growth_at, growth: tokens read, and root mean square of the state there over its value at the length seen.
    """

    name: str
    kind: str
    states: int
    effective: float | None
    needed: int | None
    roughly: int | None
    profile: tuple[float, ...]
    mean_distance: float | None
    reach: float | None
    recency: float | None
    attention: tuple[float, ...]
    smoothness: float | None
    growth_at: tuple[int, ...]
    growth: tuple[float, ...]


@dataclass(frozen=True)
class Memory(Section):
    """Every layer's memory. `length`: tokens per sequence, 0 without tokens."""

    length: int
    layers: tuple[LayerMemory, ...]

    def tables(self) -> tuple[Table, ...]:
        if not self.layers:
            return ()
        rows = tuple(
            (
                row.name,
                row.states,
                row.effective,
                row.roughly,
                row.needed,
                row.mean_distance,
                row.reach,
                row.recency,
                row.smoothness,
                row.growth[-1] if row.growth else None,
            )
            for row in self.layers
        )
        columns = (
            "layer", "states", "effective", "for\n10 %", "for\n1 %", "mean\ndistance", "90 %\nreach", "recency",
            "smooth", "growth",
        )  # fmt: skip
        note = (
            "Effective: exp of the entropy of σ². For 10 %, 1 %: states for that error of the layer's output. "
            "Distances in tokens. Recency: slope of ln |attention| per token. Smooth: share of the tokens' energy in "
            "their mean. Growth: state at the longest length tried over the state at the length seen."
        )
        return (Table(columns, rows, note),)

    def panels(self) -> tuple[Panel, ...]:
        panels = []
        if any(row.profile for row in self.layers):
            panels.append(
                Panel(
                    "Use of the states",
                    "state, k",
                    "σₖ / σ₁",
                    tuple(curve(range(1, len(r.profile) + 1), r.profile, r.name) for r in self.layers if r.profile),
                    y_log=True,
                    by_layer=True,
                )
            )
        if any(row.attention for row in self.layers):
            panels.append(
                Panel(
                    "Where the hidden attention looks",
                    "distance t − s (0 shown at 1/2)",
                    "share of |attention|",
                    tuple(
                        curve([0.5, *(2.0**j for j in range(len(r.attention) - 1))], r.attention, r.name)
                        for r in self.layers
                        if r.attention
                    ),
                    "line",
                    x_log=True,
                    by_layer=True,
                )
            )
        if any(row.growth for row in self.layers):
            panels.append(
                Panel(
                    "Size of the state",
                    "tokens read",
                    f"rms over its value at {self.length}",
                    tuple(curve(r.growth_at, r.growth, r.name) for r in self.layers if r.growth),
                    x_log=True,
                    by_layer=True,
                    level=(1.0, ""),
                )
            )
        return tuple(panels)


class MemoryInUse(Observer):
    """Collects Hankel singular values of linear layers, calibrated ones and hidden attention of selective layers."""

    def __init__(self) -> None:
        super().__init__()
        self._states: dict[str, int] = {}
        self._parts: dict[str, dict[str, Mixer]] = {}
        self._statistics: dict[str, Statistics] = {}
        self._reach: dict[str, ReachMeter] = {}
        self._smooth: dict[str, tuple[float, int]] = {}
        self._growth: dict[str, tuple[tuple[int, ...], tuple[float, ...]]] = {}
        self._length = 0

    def row(self, name: str, system: System) -> LayerMemory:
        """As `Observer.row`."""
        sigma = hankel_singular_values(system).sigma
        energy = np.square(np.where(np.isinf(sigma), 0.0, sigma))
        always = np.isinf(sigma).sum(1)  # states that are kept whatever they are worth
        needed, roughly = (int(order_for_energy(np.square(sigma), 1 - e**2).max(initial=0)) for e in (FINE, COARSE))
        top = np.where(energy[:, :1] > 0, np.sqrt(energy.max(1, keepdims=True)), 1.0)
        profile = np.median(np.sort(np.sqrt(energy) / top, axis=1)[:, ::-1], axis=0)
        return LayerMemory(
            name,
            "linear",
            sigma.shape[1],
            float(np.median(effective_rank(energy) * (energy.sum(1) > 0) + always)),
            needed,
            roughly,
            floats(profile),
            float(np.median(mean_delay(system))),
            None,
            None,
            (),
            None,
            (),
            (),
        )

    def selective(self, name: str, mixer: Mixer) -> None:
        """As `Observer.selective`."""
        self._states[name] = states_run(mixer)

    def see(self, seen: Seen) -> None:
        """As `Observer.see`."""
        self._length = max(self._length, seen.tokens.shape[1])
        stream = (seen.stream + seen.update).double()
        mean = stream.mean(1, keepdim=True)
        share = (mean.square().sum((1, 2)) * stream.shape[1] / stream.square().sum((1, 2))).sum().item()
        self._parts[seen.layer] = {name: part.mixer for name, part in seen.passes.items()}
        for name, part in seen.passes.items():
            stride = min(STRIDE, seen.tokens.shape[1])
            scan, trace = as_read(part.mixer, part.trace)
            if name not in self._statistics:
                self._statistics[name] = Statistics(scan, stride=stride)
            self._statistics[name].update(trace, part.out)
            self._reach.setdefault(name, ReachMeter()).add(part.mixer, part.trace)
            total, count = self._smooth.get(name, (0.0, 0))
            self._smooth[name] = (total + share, count + len(stream))

    def run(self, runner: Runner, tokens: Tensor) -> None:
        """As `Observer.run`."""
        self._growth = state_growth(runner, self._parts, tokens)

    def result(self) -> Memory:
        """As `Observer.result`."""
        selective = [self._selective(name, states) for name, states in self._states.items()]
        missing = ()
        if self._states and not self._statistics:
            missing = (f"effective state size, hidden attention, smoothing and growth: {NEEDS_TOKENS}",)
        layers = (*self.rows, *selective)
        verdicts = tuple(Verdict(row.name, text) for row in layers for text in _words(row, self._length))
        return Memory(verdicts, missing, self._length, layers)

    def _selective(self, name: str, states: int) -> LayerMemory:
        effective, needed, roughly, profile = None, None, None, ()
        if name in self._statistics:
            try:
                values = _calibrated(self._statistics[name].result())
                effective = entropy_size(values)
                energy = np.square(values).sum(0)[None]
                needed, roughly = (int(order_for_energy(energy, 1 - e**2)[0]) for e in (FINE, COARSE))
                profile = floats(np.median(values / np.where(values[:, :1] > 0, values[:, :1], 1.0), axis=0))
            except CalibrationError:
                pass  # too few tokens for N states: the rest of the section stands, and the fields stay empty
        reach = self._reach[name].result() if name in self._reach else Reach(None, None, None, ())
        total, count = self._smooth.get(name, (0.0, 0))
        at, growth = self._growth.get(name, ((), ()))
        return LayerMemory(
            name,
            "selective",
            states,
            effective,
            needed,
            roughly,
            profile,
            reach.mean_distance,
            reach.ninety,
            reach.recency,
            reach.shares,
            total / count if count else None,
            at,
            growth,
        )


def start() -> MemoryInUse:
    """An observer for one model."""
    return MemoryInUse()


def _calibrated(calibration: Calibration) -> np.ndarray:
    """(G, N) svd(W_o^1/2 W_c^1/2) per group, descending. Raises CalibrationError for too few tokens."""
    require_full(calibration)
    pairs = zip(calibration.observability, calibration.reachability, strict=True)
    return np.stack([np.linalg.svd(root(observe).T @ root(reach), compute_uv=False) for observe, reach in pairs])


def _words(row: LayerMemory, length: int) -> list[str]:
    found = []
    if row.needed is not None and row.roughly is not None:
        uses = f"uses {row.roughly} of {row.states} states for a 10 % error of its output, {row.needed} for 1 %"
        if row.roughly <= SPARE * row.states:
            found.append(f"{uses}: raising d_state will not help it, and it can be compressed")
        elif row.roughly >= FULL * row.states:
            found.append(f"{uses}: nearly all are in use; compression will cost accuracy, and more states may help")
        else:
            found.append(uses)
    if row.reach is not None and length and row.reach < length / 16:
        found.append(f"90 % of its attention lies within {row.reach:.0f} tokens of {length}: it works locally")
    if row.growth and row.growth[-1] > GROWING:
        found.append(
            f"its state is {row.growth[-1]:.2f} times as large after {row.growth_at[-1]} tokens as after {length}: "
            "expect trouble beyond the training length (state collapse)"
        )
    if row.smoothness is not None and row.smoothness > 0.9:
        found.append(
            f"{100 * row.smoothness:.0f} % of the energy of its output is the same for all tokens: over-smoothed"
        )
    return found
