"""Accuracies as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ssmtool.report.text.numbers import plural, seconds
from ssmtool.report.text.page import Page

if TYPE_CHECKING:
    from ssmtool.checkpoint import Checkpoint
    from ssmtool.training.evaluate import Evaluation

_COLUMNS = ("model", "accuracy", "correct", "parameters", "stored modes", "time")


def evaluate_text(
    checkpoints: Sequence[Checkpoint], results: Sequence[Evaluation], terminal: bool | None = None
) -> str:
    """One row per checkpoint."""
    page = Page(terminal)
    page.line(f"Task {results[0].task}, test part of {plural(results[0].total, 'sequence')}", "bold")
    page.line()
    rows = (
        (
            str(checkpoint.path),
            f"{100 * result.accuracy:.2f} %",
            f"{result.correct}/{result.total}",
            f"{result.parameters:,}",
            f"{result.state_slots:,}",
            seconds(result.seconds),
        )
        for checkpoint, result in zip(checkpoints, results, strict=True)
    )
    page.table(_COLUMNS, rows)
    return page.text()
