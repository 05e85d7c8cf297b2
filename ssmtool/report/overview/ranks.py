"""What every rank costs and saves: the numbers behind the slider, and a table of some of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ssmtool.lti.orders import tail_bound
from ssmtool.pipeline.portrait import LayerPortrait, Portrait, states_of
from ssmtool.report.facts import scale
from ssmtool.report.overview.view import Cell, Grid, RankLayer, Ranks, grid
from ssmtool.report.text.numbers import percent, sci, size

BOUND, PREDICTED = 1e-2, 1e-1  # relative: what the summary speaks of, of linear and of selective models
_DIGITS = 3  # of a bound on the page


def ranks_of(found: Portrait) -> Ranks:
    """The slider's numbers. It starts at the least rank that keeps the tolerance in every layer, or in the middle."""
    ranks = found.ranks
    layers = tuple(_layer(row, ranks) for row in found.layers)
    known = [layer for layer in layers if any(b is not None for b in layer.bound)]
    total = found.model.checkpoint.data_bytes
    linear = any(not layer.selective for layer in layers)
    selective = any(layer.selective for layer in layers)
    tolerance = BOUND if linear else PREDICTED
    enough = [i for i in range(len(ranks) - 1) if known and all(_at(layer, i) <= tolerance for layer in known)]
    return Ranks(
        ranks,
        enough[0] if enough else len(ranks) // 2,
        layers,
        total - sum(row.bytes for row in found.layers),
        total,
        "system or channel" if linear and selective else "system" if linear else "channel",
        "bound or predicted error" if linear and selective else "bound" if linear else "predicted error",
        tolerance,
    )


def _at(layer: RankLayer, i: int) -> float:
    value = layer.bound[i]
    return math.inf if value is None else value


def _layer(row: LayerPortrait, ranks: Sequence[int]) -> RankLayer:
    order = states_of(row.layer)
    measured = tuple((m.rank, _short(m.error) or 0.0) for m in row.measured)
    reduced = None
    if row.partner is not None:
        reduced = (int(row.partner.orders.max(initial=0)), _short(row.partner.error))
    return RankLayer(
        row.layer.name, not row.layer.lti, order, tuple(_short(b) for b in bounds(row, ranks)), row.sizes, measured,
        reduced,
    )  # fmt: skip


def bounds(row: LayerPortrait, ranks: Sequence[int]) -> list[float | None]:
    """Largest relative bound over the systems per rank, or the predicted error; None where there is none."""
    if row.spectrum is not None:
        sigma = row.spectrum.sigma
        tail = (tail_bound(sigma) / scale(sigma)).max(axis=0, initial=0.0)
        return [float(tail[min(r, len(tail) - 1)]) for r in ranks]
    if row.calibration is not None and row.calibration.spectra:
        errors = np.max([part.errors for part in row.calibration.spectra], axis=0)
        return [float(errors[min(r, len(errors) - 1)]) for r in ranks]
    return [None] * len(ranks)


def _short(value: float | None) -> float | None:
    """Three digits: more are not shown. None for what is infinite or not known."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{_DIGITS}g}")


def least_rank(layer: RankLayer, ranks: Sequence[int], tolerance: float) -> int | None:
    """The least rank whose bound is at most the tolerance; None where there is none."""
    for rank, bound in zip(ranks, layer.bound, strict=True):
        if bound is not None and bound <= tolerance:
            return min(rank, layer.order)
    return None


def total_bytes(found: Ranks, i: int) -> int | None:
    """Predicted bytes of the checkpoint at position i; None where a layer's are not known."""
    if any(not layer.bytes for layer in found.layers):
        return None
    return found.other + sum(layer.bytes[i] for layer in found.layers)


def rank_grid(found: Ranks) -> Grid:
    """Some ranks, what the checkpoint would take, and the errors: the slider as a table."""
    most = found.ranks[-1]
    asked = {r for layer in found.layers for r, _ in layer.measured}
    wanted = {max(1, round(most * share)) for share in (1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1)} | asked
    chosen = sorted({int(np.searchsorted(found.ranks, rank)) for rank in wanted} | {found.start})
    known = any(b is not None for layer in found.layers for b in layer.bound)
    rows = []
    for i in chosen:
        rank = found.ranks[i]
        values = [(layer.bound[i], layer.name) for layer in found.layers if any(b is not None for b in layer.bound)]
        worst = max(values, key=lambda v: math.inf if v[0] is None else v[0], default=(None, ""))
        errors = [
            dict(layer.measured)[r] for layer in found.layers if (r := min(rank, layer.order)) in dict(layer.measured)
        ]
        whole = total_bytes(found, i)
        states = sum(min(rank, layer.order) for layer in found.layers) / sum(layer.order for layer in found.layers)
        bound = Cell("–") if not values else Cell("∞") if worst[0] is None else Cell(sci(worst[0]), worst[0])
        row: list[Any] = [
            rank,
            Cell(percent(states, 1), states),
            Cell("–") if whole is None else Cell(size(whole), float(whole)),
            Cell("–") if whole is None else Cell(percent(whole, found.total), whole / found.total),
        ]
        if known:
            row += [bound, worst[1] if worst[0] != 0 and worst[1] else "–"]
        if asked:
            row.append(Cell(sci(max(errors)), max(errors)) if errors else None)
        rows.append(row)
    columns = ["states kept", "of all states", "checkpoint", "of its size"]
    columns += [f"largest {found.named}", "in layer"] if known else []
    columns += ["largest measured"] if asked else []
    return grid("Some ranks", columns, rows, (5,), error_note(found, bool(asked)) if known else "", "rank-table")


def error_note(found: Ranks, measured: bool) -> str:
    """What the errors of a table of ranks are relative to."""
    kinds = {layer.selective for layer in found.layers}
    notes = []
    if False in kinds:
        notes.append(f"{'Bound and measured' if measured else 'Bound of the'} H∞ error relative to σ₁ of each system.")
    if True in kinds:
        notes.append("Predicted error: of a selective layer's weighted output, relative to it.")
    return " ".join(notes)
