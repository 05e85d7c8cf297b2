"""How states were shared out, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssmtool.report.text.numbers import percent, sci, span
from ssmtool.report.text.page import Page

if TYPE_CHECKING:
    from ssmtool.pipeline.allocation import Allocation, Candidate


def add_allocation(page: Page, found: Allocation, before: int) -> None:
    """Every candidate with its score, states and bytes, and which one was carried out.

    Args:
        page: where to write.
        found: what was looked at.
        before: tensor bytes of the original.
    """
    page.line()
    measured = bool(found.measure)
    share = any(one.accuracy is not None for one in found.candidates)
    means = "accuracy" if found.measure == "cross-entropy" else "same class"
    head = ("allocation", *((found.measure,) if measured else ()), *((means,) if share else ()))
    page.table(
        (*head, "states", "ranks", "tensors", ""),
        [
            _row(one, one is found.kept or one.name == found.kept.name, measured, share, before)
            for one in found.candidates
        ],
    )
    page.line()
    if measured:
        page.paragraph(
            f"{found.total} states to share out. Scores are of the whole model on {found.judged} calibration sequences "
            "on which nothing was chosen; ranks: least to most of a layer's systems; tensors: bytes as stored."
        )
    if any(not one.allowed for one in found.candidates):
        page.paragraph(
            "needs --per-layer or --per-channel: takes more bytes than uniform as it would be stored, so it was only "
            "compared."
        )
    uniform = next((one for one in found.candidates if one.kind == "uniform"), None)
    if uniform is not None and found.kept.bytes_after > uniform.bytes_after:
        page.paragraph(
            f"Stored, what was kept takes {found.kept.bytes_after - uniform.bytes_after:,} bytes more than uniform: "
            "a width is that of the widest."
        )


def _row(one: Candidate, kept: bool, measured: bool, share: bool, before: int) -> list[str]:
    scores = []
    if measured:
        scores.append("–" if one.loss is None else sci(one.loss))
    if share:
        scores.append("–" if one.accuracy is None else f"{one.accuracy:.1%}")
    ranks = ", ".join(span(ranks) for ranks in one.ranks) if len(one.ranks) <= 4 else _overall(one)
    note = "kept" if kept else "" if one.allowed else f"needs {'--per-channel' if one.per_channel else '--per-layer'}"
    return [one.name, *scores, str(one.states), ranks, percent(one.bytes_after, before), note]


def _overall(one: Candidate) -> str:
    """Least to most over all layers."""
    low, high = min(int(r.min()) for r in one.ranks), max(int(r.max()) for r in one.ranks)
    return str(low) if low == high else f"{low}–{high}"
