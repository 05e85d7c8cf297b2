"""Numbers, pages and notes."""

from __future__ import annotations

import numpy as np
import pytest

from ssmtool.report.text.notes import add_notes
from ssmtool.report.text.numbers import percent, plural, sci, seconds, shape, size, sizes, span, spread
from ssmtool.report.text.page import Page


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (sci(0.00123), "1.2e-03"),
        (sci(0.0), "0"),
        (sci(float("inf")), "∞"),
        (sci(float("nan")), "–"),
        (spread(np.array([12, 12, 18])), "12 (18)"),
        (spread(np.array([11, 12])), "12"),
        (spread(np.array([7])), "7"),
        (span(np.array([14, 16, 15])), "14–16"),
        (span(np.array([16, 16])), "16"),
        (size(940), "940 B"),
        (size(999_960), "1.0 MB"),
        (size(24_600), "24.6 kB"),
        (size(7_000_000_000_000), "7000.0 GB"),
        (sizes(33_300, 27_100), "33.3 → 27.1 kB"),
        (sizes(33_300, 940), "33.3 → 0.9 kB"),
        (sizes(940, 812), "940 → 812 B"),
        (percent(1, 3), "33.3 %"),
        (percent(0, 0), "–"),
        (seconds(2.5), "2.50 s"),
        (seconds(0.00321), "3.21 ms"),
        (seconds(0.0000321), "32.1 µs"),
        (plural(1, "layer"), "1 layer"),
        (plural(2000, "layer"), "2,000 layers"),
        (shape(64, 1, 1), "64×1→1"),
        (shape(1, 48, 48), "48→48"),
    ],
)
def test_numbers(text, expected):
    assert text == expected


NAME = "backbone.layers.0.mixer.with.a.name.that.is.longer.than.any.terminal.is.wide.by.quite.some.way"


def _table(terminal: bool) -> str:
    page = Page(terminal)
    page.line("title [bold]:smile:[/bold]", "bold")
    page.table(("layer", "order\nkept"), [(NAME, "123456"), ("[0]", "1")])
    return page.text()


def test_a_pipe_gets_whole_names_and_plain_characters(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    text = _table(terminal=False)
    assert f"{NAME}  123456\n" in text
    assert "\x1b" not in text
    assert "─" not in text
    assert "title [bold]:smile:[/bold]\n" in text  # names are not markup


def test_a_terminal_gets_a_table_as_wide_as_itself(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("NO_COLOR", "1")
    text = _table(terminal=True)
    assert "123456" in text  # numbers stay whole; the name wraps
    assert max(map(len, text.splitlines()[1:])) <= 40
    assert "─" in text


def test_no_terminal_is_too_narrow_for_a_column(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    page = Page(terminal=True)
    page.table(("layer", "family", *"abcd"), [("layers.0", "s4 v4-diag", *("1234567",) * 4)], left=(0, 1))
    assert page.text().count("1234567") == 4


def test_colours_only_in_a_terminal_that_wants_them(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" in _table(terminal=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in _table(terminal=True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b" not in _table(terminal=False)


def test_notes_are_grouped():
    page = Page(False)
    add_notes(page, [("a", "Same."), ("b", "Same."), ("c", ""), *((f"l{i}", "Many.") for i in range(6))])
    assert page.text().strip().splitlines() == ["a, b: Same.", "l0 and 5 more layers: Many."]
