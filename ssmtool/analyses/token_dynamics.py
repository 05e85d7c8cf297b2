"""Token dynamics: where the layers drive the tokens, from S_C^T S_B, and where the tokens do go."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssmtool.analyses._contract import NEEDS_TOKENS, Curve, Observer, Panel, Section, Seen, Table, Verdict
from ssmtool.analyses._importance import Importance, ImportanceMeter
from ssmtool.analyses._numbers import curve, effective_rank
from ssmtool.analyses._projected import as_read, states_run
from ssmtool.analyses._spectrum import Interaction, interaction, maps, of_moment
from ssmtool.selective.mixers import DiagonalMixer, Mixer

SUMMARY = "Token dynamics: spectrum of S_C^T S_B, growth and clustering of tokens through depth, token importance"
REFERENCE = "Vo et al., ICLR 2025 (token dynamics of deep selective state-space models)"

CAVEAT = (
    "The yes-or-no verdict of the one-dimensional theory says next to nothing about a trained layer: the symmetric "
    "part of a generic S_C^T S_B has N positive and N negative eigenvalues. Read the measured growth instead."
)


@dataclass(frozen=True)
class LayerDynamics:
    """Token dynamics of one mixer, and of the block around it.

    Attributes:
        name: row name.
        states: N.
        source: "rows of x_proj" (exact), or "linearised" (Mamba-2: rows of in_proj and the convolution's sum of taps).
        weights: spectrum of S_C^T S_B from the weights.
        moment: spectrum of E[C_t B_t^T] on the tokens; None without.
        regime: "convergent" if all non-zero eigenvalues have negative real part, else "divergent"; by the weights.
        norm_before, norm_after: E |x_t| of the residual stream before and after the block; None without tokens.
        update_norm: E |update|.
        update: E |update| / |x_t|.
        cosine: E cos(x_t, update).
        similarity: mean cosine between two tokens of a sequence, after the block.
        rank: effective rank of the tokens of a sequence after the block: exp of the entropy of the spectrum of their
            Gram matrix; of L at most.
        importance: how unevenly |dt_t| is spread over tokens; None without tokens.
    """

    name: str
    states: int
    source: str
    weights: Interaction
    moment: Interaction | None
    regime: str
    norm_before: float | None
    norm_after: float | None
    update_norm: float | None
    update: float | None
    cosine: float | None
    similarity: float | None
    rank: float | None
    importance: Importance | None


@dataclass(frozen=True)
class TokenDynamics(Section):
    """Every selective layer's token dynamics. `caveat` belongs to every `regime`."""

    caveat: str
    layers: tuple[LayerDynamics, ...]

    def tables(self) -> tuple[Table, ...]:
        if not self.layers:
            return ()
        spectrum = tuple(
            (
                row.name,
                row.source,
                f"{row.weights.positive} / {row.weights.negative}",
                row.weights.least,
                row.weights.most,
                f"{row.weights.inertia[0]} / {row.weights.inertia[1]}",
                row.regime,
                None if row.moment is None else f"{row.moment.positive} / {row.moment.negative}",
            )
            for row in self.layers
        )
        tables = [
            Table(
                ("layer", "S_B, S_C from", "+ / −", "least Re", "most Re", "inertia", "regime", "E[CBᵀ]\n+ / −"),
                spectrum,
                f"+ / −: eigenvalues of S_Cᵀ S_B by the sign of their real part. Inertia: the same of its symmetric "
                f"part. {self.caveat}",
            )
        ]
        if any(row.norm_after is not None for row in self.layers):
            moving = tuple(
                (
                    row.name,
                    row.norm_before,
                    row.norm_after,
                    row.update,
                    row.cosine,
                    row.similarity,
                    row.rank,
                    None if row.importance is None else f"{100 * row.importance.top_tenth:.0f} %",
                    "" if row.importance is None else " ".join(token for token, _ in row.importance.tokens[:5]),
                )
                for row in self.layers
            )
            columns = (
                "layer", "|x| before", "|x| after", "update", "cos", "similar", "rank", "top 10 %", "most important",
            )  # fmt: skip
            tables.append(
                Table(
                    columns,
                    moving,
                    "Update: |update| / |x|. Cos: between token and update. Similar: mean cosine between tokens of a "
                    "sequence. Rank: effective, of a sequence's tokens. Top 10 %: their share of the sum of |Δ_t|; "
                    "most important: tokens of largest mean |Δ_t|.",
                )
            )
        return tuple(tables)

    def panels(self) -> tuple[Panel, ...]:
        if not self.layers:
            return ()
        points = tuple(
            Curve(tuple(x for x, _ in row.weights.eigenvalues), tuple(y for _, y in row.weights.eigenvalues), row.name)
            for row in self.layers
        )
        panels = [Panel("Eigenvalues of $S_C^T S_B$", "real part", "imaginary part", points, "point", by_layer=True)]
        seen = [row for row in self.layers if row.norm_after is not None]
        if seen:
            places = range(len(seen))
            panels += [
                Panel(
                    "Size of tokens and updates",
                    "layer",
                    "mean norm",
                    (
                        curve(places, [row.norm_after or 0.0 for row in seen], "token, after the block"),
                        curve(places, [row.update_norm or 0.0 for row in seen], "update"),
                    ),
                    "point",
                    y_log=True,
                ),
                Panel(
                    "Directions",
                    "layer",
                    "cosine",
                    (
                        curve(places, [row.cosine or 0.0 for row in seen], "token and update"),
                        curve(places, [row.similarity or 0.0 for row in seen], "two tokens"),
                    ),
                    "point",
                    level=(0.0, ""),
                ),
            ]
        return tuple(panels)


class _Sums:
    """Running sums of one layer."""

    def __init__(self) -> None:
        self.tokens = self.sequences = 0
        self.before = self.after = self.update_norm = self.update = self.cosine = self.similarity = self.rank = 0.0

    def add(self, x: Tensor, update: Tensor) -> None:
        """Streams (b, L, d), float64."""
        after = x + update
        size, grown, step = (part.norm(dim=-1) for part in (x, after, update))
        tiny = torch.finfo(torch.float64).tiny
        self.before += size.sum().item()
        self.after += grown.sum().item()
        self.update_norm += step.sum().item()
        self.update += (step / size.clamp_min(tiny)).sum().item()
        self.cosine += ((x * update).sum(-1) / (size * step).clamp_min(tiny)).sum().item()
        self.tokens += size.numel()
        unit = after / grown.clamp_min(tiny)[..., None]
        length = unit.shape[1]
        if length > 1:
            pairs = unit.sum(1).square().sum(-1) - length
            self.similarity += (pairs / (length * (length - 1))).sum().item()
        values = torch.linalg.eigvalsh(unit @ unit.mT).cpu().numpy()
        self.rank += float(effective_rank(values).sum())
        self.sequences += unit.shape[0]


class Dynamics(Observer):
    """Collects the interaction matrices, and what happens to the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self._weights: dict[str, tuple[int, str, Interaction]] = {}
        self._sums: dict[str, _Sums] = {}
        self._moments: dict[str, tuple[Tensor, int]] = {}
        self._importance: dict[str, ImportanceMeter] = {}

    def selective(self, name: str, mixer: Mixer) -> None:
        """As `Observer.selective`."""
        source = "rows of x_proj" if isinstance(mixer, DiagonalMixer) else "linearised"
        self._weights[name] = (states_run(mixer), source, interaction(maps(mixer)))

    @torch.no_grad()
    def see(self, seen: Seen) -> None:
        """As `Observer.see`."""
        for name, part in seen.passes.items():
            self._sums.setdefault(name, _Sums()).add(seen.stream.double(), seen.update.double())
            total, count = self._moments.get(name, (0.0, 0))
            trace = as_read(part.mixer, part.trace)[1]
            self._moments[name] = (
                total + torch.einsum("blgn,blgm->gnm", trace.C.double(), trace.B.double()),
                count + trace.B.shape[0] * trace.B.shape[1],
            )
            tokens = seen.tokens.flip(1) if part.mixer.reverse else seen.tokens
            self._importance.setdefault(name, ImportanceMeter()).add(tokens, part.trace.dt)

    def result(self) -> TokenDynamics:
        """As `Observer.result`."""
        layers = tuple(self._layer(name, *weights) for name, weights in self._weights.items())
        missing = []
        if not layers:
            missing.append("no selective layer: a linear layer does not let tokens choose how they interact")
        elif not self._sums:
            missing.append(f"growth, clustering and importance of tokens: {NEEDS_TOKENS}")
        return TokenDynamics(_words(layers), tuple(missing), CAVEAT, layers)

    def _layer(self, name: str, states: int, source: str, spectrum: Interaction) -> LayerDynamics:
        regime = "convergent" if spectrum.positive == 0 and spectrum.negative > 0 else "divergent"
        sums, moment = self._sums.get(name), None
        if name in self._moments:
            total, count = self._moments[name]
            moment = of_moment((total / count).cpu().numpy())
        return LayerDynamics(
            name,
            states,
            source,
            spectrum,
            moment,
            regime,
            None if sums is None else sums.before / sums.tokens,
            None if sums is None else sums.after / sums.tokens,
            None if sums is None else sums.update_norm / sums.tokens,
            None if sums is None else sums.update / sums.tokens,
            None if sums is None else sums.cosine / sums.tokens,
            None if sums is None else sums.similarity / sums.sequences,
            None if sums is None else sums.rank / sums.sequences,
            None if name not in self._importance else self._importance[name].result(),
        )


def start() -> Dynamics:
    """An observer for one model."""
    return Dynamics()


def _words(layers: tuple[LayerDynamics, ...]) -> tuple[Verdict, ...]:
    found = []
    convergent = [row.name for row in layers if row.regime == "convergent"]
    if convergent:
        found.append(
            Verdict(
                "",
                f"convergent by their weights: {', '.join(convergent)}. Such layers pull tokens together; if quality "
                "is poor, start again with S_C^T S_B of both signs",
            )
        )
    seen = [row for row in layers if row.norm_before is not None]
    if seen:
        growth = np.array([(row.norm_after or 0.0) / max(row.norm_before or 0.0, 1e-300) for row in seen])
        whole = float(np.prod(growth))
        direction = "grow" if whole > 1 else "shrink"
        found.append(
            Verdict("", f"token norms {direction} {whole:.3g}-fold through the selective layers that were measured")
        )
        for row, factor in zip(seen, growth, strict=True):
            if factor > 4 and row is not seen[0]:
                found.append(Verdict(row.name, f"multiplies the norm of tokens by {factor:.3g} in one block"))
            if row.similarity is not None and row.similarity > 0.9:
                found.append(
                    Verdict(row.name, f"tokens are nearly parallel after it (mean cosine {row.similarity:.2f})")
                )
    return tuple(found)
