"""Numbers and sentences of a diagnosis as text."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from ssmtool.analyses._contract import Section, Table, Verdict
from ssmtool.report.text.diagnose import cell, diagnose_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (math.nan, "–"), (math.inf, "∞"), (-math.inf, "-∞"), (0.0, "0"), (7, "7"), ("a", "a"),
        (1.0, "1.00"), (12.345, "12.3"), (123.4, "123"), (54321.0, "54321"), (123456.0, "1.2e+05"),
        (0.012345, "0.0123"), (2e-7, "2.0e-07"), (0.99951, "0.9995"), (-0.5, "-0.500"),
    ],
)  # fmt: skip
def test_cells(value, text):
    assert cell(value) == text


class Made(Section):
    def tables(self):
        return (Table(("layer", "n"), (("a", 1.0), ("b", None)), "N: a number."),)

    def panels(self):
        return ()


def test_sentences_are_said_once_for_all_their_layers():
    verdicts = (Verdict("a", "is large"), Verdict("b", "is large"), Verdict("", "the whole is small"))
    sections = {"some_thing": Made(verdicts, ("more: needs tokens",))}
    found: Any = SimpleNamespace(sections=sections, tokens=None, sequences=0, length=0)
    model: Any = SimpleNamespace(checkpoint=SimpleNamespace(path="model"))
    text = diagnose_text(model, found, terminal=False)
    assert "SOME THING" in text
    assert "• a, b: is large." in text
    assert "• The whole is small." in text
    assert "More: needs tokens." in text
    assert "N: a number." in text
