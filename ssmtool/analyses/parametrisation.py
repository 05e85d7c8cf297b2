"""Parametrisation: the scale of every matrix, how well the states are told apart, and what complex poles buy."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.sparse.linalg import svds
from torch import Tensor

from ssmtool.analyses._contract import NEEDS_TOKENS, Observer, Panel, Section, Seen, Table, Verdict
from ssmtool.analyses._linear import conjugate_closed
from ssmtool.analyses._numbers import Quantiles, curve, quantiles
from ssmtool.analyses._projected import as_read
from ssmtool.analyses._real_refit import real_refit_error
from ssmtool.lti.systems import DiagonalSystem, System
from ssmtool.selective.mixers import DiagonalMixer, Mixer

SUMMARY = "Parametrisation: spectral scales, cost of real poles, conditioning of Gramians, spread of b c"
REFERENCE = "Ran-Milo et al., NeurIPS 2024 (complex parametrisations); Roy & Vetterli 2007 (effective rank)"

_SAMPLES = 8  # systems of a layer that are refitted with real poles
_LARGE = 256  # matrices up to this size are decomposed completely
_CONDITION = 1e16  # a formed Gramian says no more than this
_IDLE = 1e-2  # of the largest b c


@dataclass(frozen=True)
class Scale:
    """One matrix: its largest singular value, and ||W||_F^2 / s_1^2, the stable rank."""

    matrix: str
    spectral_norm: float
    stable_rank: float


@dataclass(frozen=True)
class LayerParameters:
    """How one layer's numbers are scaled.

    Attributes:
        name: row name.
        kind: "linear" or "selective".
        scales: of each matrix.
        product: per system and mode |C_i| |B_i| (norms over outputs and inputs), relative to the largest of its system;
            of a selective layer |row n of S_C| |row n of S_B| relative to the largest of its group: quantiles.
        idle: share of modes whose product is below 1 % of the largest.
        real_refit: H2 error, relative, of the best fit found with as many real poles as the layer has states: quantiles
            over a sample of systems; None where all poles are real, or there is no single input.
        condition_reach, condition_observe: condition number of the reachability and of the observability Gramian after
            scaling states to unit energy, median over systems or groups, at most 1e16; of a selective layer of E[B B^T]
            and E[C C^T], None without tokens.
        a_moved: median of |ln(a / a_init)| over modes, a_init = 1 ... N as Mamba-1 is initialised; None for others.
    """

    name: str
    kind: str
    scales: tuple[Scale, ...]
    product: Quantiles
    idle: float
    real_refit: Quantiles | None
    condition_reach: float | None
    condition_observe: float | None
    a_moved: float | None


@dataclass(frozen=True)
class Parametrisation(Section):
    """Every layer's parametrisation."""

    layers: tuple[LayerParameters, ...]

    def tables(self) -> tuple[Table, ...]:
        if not self.layers:
            return ()
        rows = tuple(
            (
                row.name,
                " ".join(f"{scale.matrix} {scale.spectral_norm:.3g}" for scale in row.scales),
                row.product.tenth,
                f"{100 * row.idle:.0f} %",
                None if row.real_refit is None else row.real_refit.median,
                row.condition_reach,
                row.condition_observe,
                row.a_moved,
            )
            for row in self.layers
        )
        columns = (
            "layer", "spectral norms", "b·c\n10 %", "idle", "real\npoles", "cond\nreach", "cond\nobserve", "A\nmoved",
        )  # fmt: skip
        note = (
            "b·c 10 %: tenth quantile of |b||c| relative to the layer's largest; idle: modes under 1 % of it. Real "
            "poles: relative H2 error with as many real poles. Cond: condition numbers of the Gramians, states scaled "
            "to unit energy. A moved: median |ln(a / a_init)|."
        )
        return (Table(columns, rows, note),)

    def panels(self) -> tuple[Panel, ...]:
        if not self.layers:
            return ()
        names = list(dict.fromkeys(scale.matrix for row in self.layers for scale in row.scales))
        curves = []
        for name in names:
            found = [(i, s.spectral_norm) for i, row in enumerate(self.layers) for s in row.scales if s.matrix == name]
            curves.append(curve([i for i, _ in found], [norm for _, norm in found], name))
        places = range(len(self.layers))
        return (
            Panel("Spectral norms", "layer", "largest singular value", tuple(curves), "point", y_log=True),
            Panel(
                "Spread of |b||c| over modes",
                "layer",
                "relative to the largest",
                tuple(
                    curve(places, [max(getattr(row.product, part), 1e-12) for row in self.layers], label)
                    for part, label in (("ninetieth", "90 %"), ("median", "median"), ("tenth", "10 %"))
                ),
                "point",
                y_log=True,
            ),
        )


class Parameters(Observer):
    """Looks at weights; with tokens also at the second moments of B and C."""

    def __init__(self) -> None:
        super().__init__()
        self._selective: list[LayerParameters] = []
        self._moments: dict[str, tuple[Tensor, Tensor]] = {}

    def row(self, name: str, system: System) -> LayerParameters:
        """As `Observer.row`."""
        products = np.linalg.norm(system.B, axis=2) * np.linalg.norm(system.C, axis=1)
        relative = _relative(products)
        scales = [_largest("B", system.B), _largest("C", system.C), _largest("D", system.D)]
        reach = observe = refit = None
        if isinstance(system, DiagonalSystem):
            reach, observe = _conditions(system)
            if system.inputs == 1 and not system.real and np.any(system.a.imag != 0):
                chosen = np.unique(np.linspace(0, system.systems - 1, min(_SAMPLES, system.systems)).astype(int))
                part = DiagonalSystem(system.a[chosen], system.B[chosen], system.C[chosen], system.D[chosen])
                errors = real_refit_error(part)
                refit = quantiles(errors) if np.isfinite(errors).all() else None
        else:
            scales.insert(0, _largest("A", system.A))
        return LayerParameters(
            name,
            "linear",
            tuple(scales),
            quantiles(relative),
            float((relative < _IDLE).mean()),
            refit,
            reach,
            observe,
            None,
        )

    def selective(self, name: str, mixer: Mixer) -> None:
        """As `Observer.selective`."""
        self._selective.append(_of_mixer(name, mixer))

    @torch.no_grad()
    def see(self, seen: Seen) -> None:
        """As `Observer.see`."""
        for name, part in seen.passes.items():
            _, trace = as_read(part.mixer, part.trace)
            b, c = (torch.einsum("blgn,blgm->gnm", x.double(), x.double()) for x in (trace.B, trace.C))
            if name in self._moments:
                b, c = b + self._moments[name][0], c + self._moments[name][1]
            self._moments[name] = (b, c)

    def result(self) -> Parametrisation:
        """As `Observer.result`."""
        layers = (*self.rows, *(self._measured(row) for row in self._selective))
        missing = ()
        if self._selective and not self._moments:
            missing = (f"conditioning of E[B Bᵀ] and E[C Cᵀ]: {NEEDS_TOKENS}",)
        verdicts = tuple(Verdict(row.name, text) for row in layers for text in _words(row))
        return Parametrisation(verdicts, missing, layers)

    def _measured(self, row: LayerParameters) -> LayerParameters:
        """The row with what tokens add."""
        if row.name not in self._moments:
            return row
        reach, observe = (_condition(m.cpu().numpy()) for m in self._moments[row.name])
        return replace(row, condition_reach=reach, condition_observe=observe)


def start() -> Parameters:
    """An observer for one model."""
    return Parameters()


def _of_mixer(name: str, mixer: Mixer) -> LayerParameters:
    diagonal = isinstance(mixer, DiagonalMixer)
    b, c = (mixer.x_b, mixer.x_c) if diagonal else (mixer.in_b, mixer.in_c)
    rows = [np.linalg.norm(np.asarray(x).reshape(mixer.groups, mixer.states, -1), axis=2) for x in (b, c)]
    relative = _relative(rows[0] * rows[1])
    named = (
        ("in_x", mixer.in_x), ("in_z", mixer.in_z), ("S_B", b), ("S_C", c),
        ("dt", mixer.dt_weight if diagonal else mixer.in_dt), ("out", mixer.out),
    )  # fmt: skip
    moved = None
    if diagonal:
        moved = float(np.median(np.abs(np.asarray(mixer.a_log) - np.log(np.arange(1, mixer.states + 1)))))
    return LayerParameters(
        name,
        "selective",
        tuple(_largest(label, np.asarray(matrix)) for label, matrix in named if matrix is not None),
        quantiles(relative),
        float((relative < _IDLE).mean()),
        None,
        None,
        None,
        moved,
    )


def _relative(products: np.ndarray) -> np.ndarray:
    """Products (S, n) over the largest of each row; 0 where all are."""
    top = products.max(axis=1, keepdims=True)
    return np.divide(products, top, out=np.zeros_like(products), where=top > 0)


def _largest(name: str, matrix: np.ndarray) -> Scale:
    """Scale of the matrix of a batch (..., rows, columns) that has the largest spectral norm."""
    batch = matrix.reshape(-1, *matrix.shape[-2:])
    norms = np.array([_spectral_norm(part) for part in batch])
    best = int(np.argmax(norms))
    top = float(norms[best])
    return Scale(name, top, float(np.square(np.abs(batch[best]) / top).sum()) if top > 0 else 0.0)


def _spectral_norm(matrix: np.ndarray) -> float:
    """Largest singular value; of a large matrix by Lanczos iteration, a complete decomposition would take minutes."""
    if min(matrix.shape) <= _LARGE or not matrix.any():
        return float(np.linalg.norm(matrix, 2)) if matrix.size else 0.0
    start = np.random.default_rng(0).standard_normal(min(matrix.shape))
    return float(np.asarray(svds(matrix, k=1, v0=start, return_singular_vectors=False)).max())


def _conditions(system: DiagonalSystem) -> tuple[float | None, float | None]:
    """Medians over the stable systems; None if there is none."""
    a, B, C = conjugate_closed(system)
    stable = (a.real < 0).all(axis=1)
    if not stable.any():
        return None, None
    found: list[tuple[float, float]] = []
    for s in np.flatnonzero(stable)[:: max(1, int(stable.sum()) // 32)]:
        reach = (B[s] @ B[s].conj().T) / -np.expm1(a[s][:, None] + a[s].conj())
        observe = (C[s].conj().T @ C[s]) / -np.expm1(a[s].conj()[:, None] + a[s])
        found.append((_condition(reach[None]), _condition(observe[None])))
    first, second = (float(np.median(column)) for column in zip(*found, strict=True))
    return first, second


def _condition(gramians: np.ndarray) -> float:
    """Median over (G, n, n) of the condition number after scaling to a unit diagonal; idle states are left out."""
    found = []
    for gramian in gramians:
        size = np.sqrt(np.abs(np.diagonal(gramian)))
        used = size > 0
        scaled = gramian[np.ix_(used, used)] / np.outer(size[used], size[used])
        values = np.linalg.eigvalsh(scaled)
        found.append(float(values[-1] / max(values[0], values[-1] / _CONDITION)) if used.any() else 1.0)
    return float(np.median(found))


def _words(row: LayerParameters) -> list[str]:
    found = []
    if row.idle >= 0.25:
        found.append(
            f"{100 * row.idle:.0f} % of its modes have |b||c| under 1 % of the largest: they contribute little, and "
            "`ssmtool compress` removes them almost for free"
        )
    if row.real_refit is not None:
        cost = row.real_refit.median
        if cost > 0.1:
            found.append(
                f"with real poles only, the same number of states leaves an error of {100 * cost:.0f} % (H2): its "
                "complex poles are needed"
            )
        elif cost < 0.01:
            found.append(
                f"real poles would do: the same number of states leaves {100 * cost:.2g} % (H2), at half the storage"
            )
    if row.condition_observe is not None and row.condition_reach is not None and row.kind == "selective":
        worst = max(row.condition_observe, row.condition_reach)
        if worst > 1e6:
            found.append(f"its states are nearly dependent (condition {worst:.1e}): some are copies of others")
    return found
