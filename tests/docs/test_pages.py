"""Every plug-in is in the documentation, and the documentation has no page of a plug-in that is gone."""

from __future__ import annotations

import re
import sys

import pytest

from ssmtool import plugins
from tests.docs.blocks import TOP

HOOKS = TOP / "docs" / "_hooks"
FAMILIES = plugins.names("ssmtool.families")
ALSO = {"index"}  # pages in docs/families/ that are no family's
SECTIONS = ("What is read", "How it maps", "What is written", "What is lost or refused")


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch):
    """Imports a module of docs/_hooks/ as MkDocs does."""
    monkeypatch.syspath_prepend(str(HOOKS))
    yield lambda name: __import__(name)
    for name in ("command_pages", "tensor_tables"):
        sys.modules.pop(name, None)


def page(name: str) -> str:
    return (TOP / "docs" / name).read_text(encoding="utf-8")


def test_every_family_has_a_page_and_every_page_a_family() -> None:
    assert {path.stem for path in (TOP / "docs" / "families").glob("*.md")} - ALSO == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_page_of_a_family(family: str, hook) -> None:
    text = page(f"families/{family}.md")
    assert f"`{family}`" in text
    assert re.findall(r"^## (.*)$", text, re.MULTILINE)[: len(SECTIONS)] == list(SECTIONS)
    assert f"ssmtool inspect checkpoints/{family}" in text or re.search(rf"ssmtool \w+ checkpoints/{family}\b", text)
    tables = hook("tensor_tables").expand(text, family)
    module = plugins.load("ssmtool.families", family)
    for variant in module.VARIANTS:
        assert f"`{variant}`" in tables
    assert "<!-- tensors" not in tables


def test_the_table_of_families(hook) -> None:
    found = re.findall(r"^\| \[`(\w+)`\]\((\w+)\.md\)", page("families/index.md"), re.MULTILINE)
    assert sorted(name for name, _ in found) == sorted(FAMILIES)
    assert all(name == target for name, target in found)


@pytest.mark.parametrize("method", plugins.names("ssmtool.reductions"))
def test_every_reduction_has_a_section(method: str) -> None:
    headings = re.findall(r"^## (\w+)", page("reductions.md") + page("reductions-weighted.md"), re.MULTILINE)
    assert method in headings


@pytest.mark.parametrize("analysis", plugins.names("ssmtool.analyses"))
def test_every_analysis_has_a_section(analysis: str) -> None:
    assert f"\n## {analysis}\n" in page("diagnose.md")


def test_the_reference_has_every_command_and_option(hook) -> None:
    from ssmtool.cli.app import command

    pages = hook("command_pages")
    text = pages.page()
    for name, found, _ in pages.commands(command(), "ssmtool", None):
        section = text.partition(f"## {name}\n")[2].partition("\n## ")[0]
        assert f"Usage: {name} " in section
        for parameter in found.params:
            if parameter.param_type_name == "option" and not getattr(parameter, "hidden", False):
                assert any(option in section for option in parameter.opts), (name, parameter.opts)


def test_the_readme_has_every_command(hook) -> None:
    from ssmtool.cli.app import command

    found = hook("command_pages").commands(command(), "ssmtool", None)
    names = [name.partition(" ")[2] for name, _, parent in found if parent is not None]
    headings = re.findall(r"^### (\w+)", (TOP / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(headings) == sorted(names)


@pytest.mark.parametrize("source", ["README.md", "CONTRIBUTING.md", "fixtures/README.md"])
def test_links_of_pages_outside_docs(source: str) -> None:
    """MkDocs checks the links of the pages in docs/; README.md is no page of the site."""
    text = re.sub(r"^```.*?^```", "", (TOP / source).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target, _, anchor in (link.partition("#") for link in re.findall(r"\]\(([^)\s]+)\)", text) if ":" not in link):
        file = (TOP / source).parent / target if target else TOP / source
        assert file.exists(), f"{source}: no {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, anchor


def test_letters_of_a_table_are_unambiguous(hook) -> None:
    with pytest.raises(ValueError, match="both 4"):
        hook("tensor_tables").sizes_of("H=4 N=4")
