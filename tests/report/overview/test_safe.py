"""Text from checkpoints: nothing of it is markup, ends a script, or cannot be seen."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from ssmtool.report.overview.safe import markdown, printable, script_json

text = st.text(alphabet=st.characters(), max_size=40)


@given(text)
def test_json_in_a_script_reads_back_and_cannot_end_it(value):
    found = script_json({"name": value})
    assert json.loads(found) == {"name": value}
    assert not set(found) & set("<>&\u2028\u2029")
    assert found.isascii()


def test_numbers_that_json_does_not_know_become_null():
    assert (
        script_json([float("nan"), float("inf"), -float("inf"), 1.5, {"a": (1, None)}])
        == '[null,null,null,1.5,{"a":[1,null]}]'
    )


@given(text)
def test_printable_text_is_visible_and_stays_so(value):
    found = printable(value)
    assert all(c.isprintable() or c in "\u00a0\u3000" or c.isspace() for c in found)
    assert printable(found) == found
    found.encode("utf-8")


def test_names_that_can_be_seen_stay_as_they_are():
    assert printable("backbone.layers.0.mixer") == "backbone.layers.0.mixer"
    assert printable("слой.σ₁") == "слой.σ₁"
    assert printable("a\u202eb\u0000\u2028\ud800") == "a\\u202eb\\u0000\\u2028\\ud800"


@given(text)
def test_markdown_has_no_html_no_line_ends_and_no_bare_bars(value):
    found = markdown(value)
    assert not set("<>") & set(found)
    assert "\n" not in found
    for i, character in enumerate(found):
        if character in "|`*_[]":
            before = found[:i]
            assert (len(before) - len(before.rstrip("\\"))) % 2 == 1
