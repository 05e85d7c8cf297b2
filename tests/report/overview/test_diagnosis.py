"""Sections of a diagnosis on the page: what is said of many layers stays short, text is not taken for numbers."""

from __future__ import annotations

from ssmtool.analyses._contract import Table, Verdict
from ssmtool.report.overview.diagnosis import MANY, _grid, _verdicts


def said(texts: list[str]) -> list[str]:
    return _verdicts([Verdict(f"layers.{i}", text) for i, text in enumerate(texts)])


def test_layers_of_which_the_same_is_said_share_a_sentence():
    assert said(["forgets"] * 2) == ["layers.0, layers.1: forgets."]
    assert said(["forgets"] * 6) == ["layers.0 and 5 more layers: forgets."]


def test_few_statements_keep_their_own_numbers():
    texts = [f"needs {n} of 64 states" for n in range(3, 3 + MANY)]
    assert said(texts) == [f"layers.{i}: {text}." for i, text in enumerate(texts)]


def test_many_statements_that_differ_in_numbers_are_one_with_ranges():
    texts = [f"S5 needs {n} of 64 states for 10 %, or 1.5e-0{10 - n} H2" for n in (9, 3, 5, 8, 4)]
    assert said(texts) == ["layers.0 and 4 more layers: S5 needs 3–9 of 64 states for 10 %, or 1.5e-07–1.5e-01 H2."]


def test_statements_about_the_model_are_never_joined():
    found = _verdicts([Verdict("", f"holds for {n} steps") for n in range(6)])
    assert found == [f"Holds for {n} steps." for n in range(6)]


def test_shares_are_numbers_and_sentences_that_end_with_one_are_not():
    table = Table(("layer", "share", "words"), (("a", "12 %", "b@-1 +26 %"), ("c", "-3.5 %", "57 % of all, or 3 %")))
    assert [column.number for column in _grid(table, "t").columns] == [False, True, False]
