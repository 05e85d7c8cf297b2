"""The site builds strictly with sockets forbidden, asks for nothing from outside, and its reference is complete."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

import ssmtool
import ssmtool.training
from tests.docs.blocks import TOP

LOADED = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("object", "data")}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The built site. MkDocs turns warnings into errors, and a connection into one as well."""
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_MKDOCS_2_WARNING", "1")
        patch.chdir(TOP)
        for name in ("connect", "connect_ex", "sendto"):
            patch.setattr(socket.socket, name, _forbidden)
        patch.setattr(socket, "getaddrinfo", _forbidden)
        from mkdocs.commands.build import build
        from mkdocs.config import load_config

        build(load_config(str(TOP / "mkdocs.yml"), strict=True, site_dir=str(folder)))
        yield folder


def _forbidden(*args: object, **names: object) -> None:
    raise OSError("the documentation must build without network")


class Resources(HTMLParser):
    """What a page makes a browser fetch, and the anchors it has."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.anchors: set[str] = set()
        self.classes: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        canonical = tag == "link" and named.get("rel") in ("canonical", "next", "prev")
        self.fetched += [v for k, v in attrs if (tag, k) in LOADED and v and not canonical]
        self.anchors.add(named.get("id") or "")
        self.classes |= set((named.get("class") or "").split())


def pages(site: Path) -> list[Path]:
    return sorted(site.rglob("*.html"))


def test_every_page_is_there(site: Path) -> None:
    written = {str(path.relative_to(TOP / "docs").with_suffix(".html")) for path in (TOP / "docs").rglob("*.md")}
    made = {"reference/commands.html", "contributing.html", "changelog.html", "fixtures.html"}
    assert written | made <= {str(path.relative_to(site)) for path in pages(site)}
    assert (site / "search" / "search_index.json").is_file()


def test_nothing_is_fetched_from_outside(site: Path) -> None:
    """Fonts, scripts, styles, pictures are files of the site. Mermaid would be fetched by the theme if it were used."""
    for page in pages(site):
        found = Resources(page)
        assert [url for url in found.fetched if re.match(r"(https?:)?//", url)] == [], page
        assert "mermaid" not in found.classes, page
        for url in found.fetched:
            file = re.split(r"[?#]", url)[0]
            assert file.startswith("data:") or os.path.exists(page.parent / file) or page.name == "404.html", (
                page,
                url,
            )
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(\s*['\"]?|@import\s+['\"])(https?:)?//", style.read_text(encoding="utf-8")), style


def test_the_public_interface_is_in_the_reference(site: Path) -> None:
    anchors = Resources(site / "reference" / "python.html").anchors
    words = {anchor.rpartition(".")[2] for anchor in anchors}
    assert set(ssmtool.__all__) - {"__version__"} <= words
    assert set(ssmtool.training.__all__) <= words


def test_notes_to_the_tests_are_not_published(site: Path) -> None:
    for page in pages(site):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"<!-- *(skip|varies|exit|before|file|from|tensors)\b", text), page


def test_sub_commands_are_headings(site: Path) -> None:
    text = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    assert all(f">{name}<a" in text for name in ("ssmtool compress", "ssmtool hsv", "ssmtool validate"))
