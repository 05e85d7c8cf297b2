"""Sentences about layers, each said once for all the layers it holds for."""

from __future__ import annotations

from collections.abc import Iterable

from ssmtool.report.text.page import Page


def add_notes(page: Page, notes: Iterable[tuple[str, str]]) -> None:
    """Add one paragraph per sentence, naming its layers.

    Args:
        notes: (layer name, sentence); empty sentences are left out.
    """
    by_sentence: dict[str, list[str]] = {}
    for name, sentence in notes:
        if sentence:
            by_sentence.setdefault(sentence, []).append(name)
    if by_sentence:
        page.line()
    for sentence, names in by_sentence.items():
        few = ", ".join(names) if len(names) <= 4 else f"{names[0]} and {len(names) - 1} more layers"
        page.paragraph(f"{few}: {sentence}", hang="  ")
