"""Text of others: nothing of it is markup, obeyed by a terminal, or unseen; a Markdown reader sees it as it is."""

from __future__ import annotations

import html
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from ssmtool.shown import NO_BREAK, markdown, markdown_sentence, one_line, printable

READER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
text = st.text(alphabet=st.characters(), max_size=40)
marks = st.text(alphabet="ab1 .-+*_`~#|!()[]{}<>&:/\\@$=\n\t", max_size=24)


@given(text)
def test_printable_text_is_visible_and_stays_so(value):
    found = printable(value)
    assert found.isprintable()
    assert printable(found) == found
    found.encode("utf-8")
    assert printable(value, NO_BREAK).replace(NO_BREAK, "").isprintable()


def test_names_that_can_be_seen_stay_as_they_are():
    assert printable("backbone.layers.0.mixer") == "backbone.layers.0.mixer"
    assert printable("слой.σ₁") == "слой.σ₁"
    assert printable("a\u202eb\u0000\u2028\ud800") == r"a\u202eb\x00\u2028\ud800"
    assert printable("1\u00a0kB") == r"1\xa0kB"
    assert printable("1\u00a0kB", NO_BREAK) == "1\u00a0kB"
    assert one_line(" a\n\tb\x1b[2J ") == r"a b\x1b[2J"


@given(st.text())
def test_escaped_text_shows_as_it_is(text):
    """Backslashes and entities undone, what is left is the text, on one line, with no way to start markup."""
    shown = markdown(text)
    assert "\n" not in shown
    bare = re.sub(r"&(?:lt|gt|amp|#\d+);", "", re.sub(r"\\[!-/:-@\[-`{-~]", "", shown))
    assert not set(bare) & set("\\`*_{}[]()<>#+!|~&$:")
    assert shown.count("@") == shown.count("@&#8203;")
    undone = html.unescape(re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", shown)).replace("\u200b", "")
    printable = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    assert undone.replace("\u200b", "") == printable.replace("\u200b", "")


def seen(found: str) -> str:
    """What a reader of Markdown shows of a paragraph that is this text; fails where it is anything but text."""
    page = READER.render(found)
    assert re.fullmatch(r"(<p>[^<>]*</p>\n)?", page), page
    return html.unescape(page.removeprefix("<p>").removesuffix("</p>\n")).replace("\u200b", "")


@given(text | marks)
@example("- a")
@example("1. a")
@example("12) a")
@example("    a")
@example("a  -\\ b")
@example("https://a.b (c): d")
@example("---")
@example("+ +")
@example("a:")
def test_a_sentence_is_read_as_what_it_is(value):
    assert seen(markdown_sentence(value)) == printable(value, NO_BREAK).strip(" ").replace("\u200b", "")


@given(text | marks)
def test_a_sentence_in_a_list_and_in_a_cell(value):
    """Beside other cells it stays in its own, and in a list it is one item that holds no list."""
    found = markdown_sentence(value)
    row = READER.render(f"| a | b |\n|---|---|\n| {found} | x |\n")
    assert row.count("<td>") == 2
    assert "<td>x</td>" in row
    page = READER.render(f"- x {found}\n- {found or 'y'}\n")
    assert page.count("<ul>") + page.count("<ol") == 1
    assert page.count("<li>") == 2


@pytest.mark.parametrize("way", [markdown, markdown_sentence])
def test_links_and_mentions_that_sites_make_of_plain_text(way):
    """GitHub makes links of these without any markup."""
    found = way("https://example.org www.example.org @someone a@b.org")
    assert "https://" not in found
    assert "www.example" not in found
    assert all(part.startswith("&#8203;") for part in found.split("@")[1:])


def test_sentences_stay_readable():
    said = "Bound: certified, of the H∞ error (a well-known one); 1.5 + 2"
    assert markdown_sentence(said) == said
    assert markdown_sentence("layers.0_a|b: kept") == r"layers.0\_a\|b: kept"
