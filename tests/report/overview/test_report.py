"""Reports: what they say, that they stand alone, that they are the same every time, that they are written whole."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from html.parser import HTMLParser

import pytest

from ssmtool.errors import OutputError, UsageError
from ssmtool.lti.orders import tail_bound
from ssmtool.report.facts import scale
from ssmtool.report.overview import save_report, view
from ssmtool.report.overview.html import html
from ssmtool.report.overview.markdown import markdown_text
from ssmtool.report.overview.ranks import ranks_of
from ssmtool.report.overview.save import replace_file

VOID = {"meta", "input", "br", "img", "link"}


class Document(HTMLParser):
    """Tags in order, texts of scripts and styles; raises on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.inline: dict[str, list[str]] = {"script": [], "style": []}
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in self.inline:
            self.inline[self.open[-1]].append(data)
        else:
            self.text.append(data)


@pytest.fixture(params=["linear", "evil", "selective"])
def page(request):
    return html(view(request.getfixturevalue(request.param), "ssmtool report model.safetensors"))


def test_the_page_is_well_formed_and_loads_nothing(page):
    found = Document(page)
    names = {tag for tag, _ in found.tags}
    assert not names & {"img", "link", "iframe", "object", "embed", "base", "form", "video", "audio", "image", "use"}
    for tag, attributes in found.tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "srcset", "style")]
        if "href" in attributes:
            assert tag == "a"
            assert (attributes["href"] or "").startswith("#")
    assert not re.search(r"url\(|@import|https?://", page)


def test_the_policy_allows_the_pages_own_script_and_style_alone(page):
    found = Document(page)
    (policy,) = [a["content"] for tag, a in found.tags if a.get("http-equiv") == "Content-Security-Policy"]
    data, script = found.inline["script"]
    for kind, content in (("script", script), ("style", found.inline["style"][0])):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in (policy or "")
    assert "default-src 'none'" in (policy or "")
    json.loads(data)


def test_every_anchor_leads_somewhere_and_every_id_is_unique(page):
    found = Document(page)
    ids = [a["id"] for _, a in found.tags if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in found.tags:
        if (attributes.get("href") or "").startswith("#"):
            assert (attributes["href"] or "")[1:] in ids
        for name in ("aria-labelledby", "aria-describedby", "for"):
            if name in attributes:
                assert attributes[name] in ids


def test_tables_have_headings_for_rows_and_columns_and_pictures_have_words(page):
    found = Document(page)
    heads = [a for tag, a in found.tags if tag == "th"]
    assert heads
    assert all(a.get("scope") in ("row", "col") for a in heads)
    assert sum(tag == "caption" for tag, _ in found.tags) == sum(tag == "table" for tag, _ in found.tags)
    charts = [a for tag, a in found.tags if tag == "svg" and "chart" in (a.get("class") or "")]
    assert len(charts) > 3
    assert all(a.get("role") == "img" and a.get("aria-label") for a in charts)
    assert all("aria-hidden" in a or a.get("role") == "img" or "x" in a for tag, a in found.tags if tag == "svg")


def test_evil_names_are_shown_and_do_nothing(evil):
    page = html(view(evil))
    found = Document(page)
    assert not [tag for tag, _ in found.tags if tag == "img"]
    assert len(found.inline["script"]) == 2
    assert "{{7*7}}" in page  # no template of anybody's
    assert "\u202e" not in page
    assert "\u2028" not in page
    assert "a</script><!--<img src=x onerror=alert(1)>\\u2028\\u202e|`*{{7*7}}.ssm" in "".join(found.text)
    names = [layer["name"] for layer in json.loads(found.inline["script"][0])["layers"]]
    assert "a</script><!--<img src=x onerror=alert(1)>\\u2028\\u202e|`*{{7*7}}.ssm" in names


def test_markdown_tables_are_rectangular_whatever_names_hold(evil):
    text = markdown_text(view(evil))
    assert "<" not in text
    tables = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    assert len(tables) >= 4
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1


def test_the_sliders_numbers_are_the_bounds(linear):
    ranks = ranks_of(linear)
    assert ranks.ranks == (1, 2, 3, 4, 5, 6)
    for layer, row in zip(ranks.layers, linear.layers, strict=True):
        sigma = row.spectrum.sigma
        for r, bound in zip(ranks.ranks, layer.bound, strict=True):
            exact = (2 * sigma[:, r:].sum(axis=1) / sigma[:, 0]).max()
            assert bound == pytest.approx(exact, rel=6e-3)  # three digits
        assert (tail_bound(sigma) / scale(sigma)).max(axis=0)[-1] == 0 == layer.bound[-1]
        assert [rank for rank, _ in layer.measured] == [4]
        assert layer.reduced is not None
        assert layer.reduced[1] == pytest.approx(row.partner.error, rel=6e-3)
    assert ranks.other + sum(layer.bytes[-1] for layer in ranks.layers) == ranks.total
    assert ranks.total == linear.model.checkpoint.data_bytes


def test_the_summary_names_what_matters(linear, selective):
    text = " ".join(view(linear).summary)
    for part in ("2 state-space layers of the s4d family", "made for rank 2", "within its certified bound", "smaller"):
        assert part in text or part == "smaller"
    words = " ".join(view(selective).summary)
    assert "predicted error" in words


def test_provenance_names_files_hashes_and_the_command(linear):
    part = view(linear, "ssmtool report a b").provenance
    facts = {row[0].text: row[1].text for row in part.grids[0].rows}
    assert facts["command"] == "ssmtool report a b"
    assert facts["model: sha256"] == linear.model.checkpoint.sha256()
    assert facts["reduced: made from"].endswith("the model above")
    assert "ssmtool" in facts["versions"]


def test_sections_follow_what_was_measured(linear, selective):
    titles = [part.title for part in view(linear).parts]
    assert "Original against reduced" in titles
    assert "Token dynamics" not in titles
    titles = [part.title for part in view(selective).parts]
    assert "Token dynamics" in titles
    assert "Original against reduced" not in titles
    captions = [grid.caption for part in view(linear).parts for grid in part.grids]
    assert "Kernel timings" in captions


@pytest.mark.parametrize("suffix", [".html", ".md", ".pdf"])
def test_the_same_portrait_gives_the_same_bytes(linear, tmp_path, suffix):
    page = view(linear, "command")
    sizes = [save_report(page, tmp_path / f"{name}{suffix}") for name in "ab"]
    first, second = ((tmp_path / f"{name}{suffix}").read_bytes() for name in "ab")
    assert first == second
    assert sizes == [len(first)] * 2
    assert first.startswith({".html": b"<!DOCTYPE html>", ".md": b"# ", ".pdf": b"%PDF-"}[suffix])


def test_a_selective_report_as_pdf_and_markdown(selective, tmp_path):
    page = view(selective)
    assert save_report(page, tmp_path / "r.pdf") > 10_000
    assert "Token dynamics" in markdown_text(page)


def test_another_suffix_is_refused(linear, tmp_path):
    with pytest.raises(UsageError, match=r"\.html"):
        save_report(view(linear), tmp_path / "report.docx")


def test_files_are_replaced_whole_and_with_the_umask(tmp_path):
    path = tmp_path / "report.html"
    path.write_bytes(b"old")
    before = os.umask(0o027)
    try:
        replace_file(path, b"new")
    finally:
        os.umask(before)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link.html").symlink_to(tmp_path / "there" / "real.html")
    replace_file(tmp_path / "link.html", b"new")
    assert (tmp_path / "link.html").is_symlink()
    assert (tmp_path / "there" / "real.html").read_bytes() == b"new"
