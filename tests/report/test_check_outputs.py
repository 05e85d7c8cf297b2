"""A check as JUnit, workflow commands, Markdown and text: the structure others expect, and nothing unescaped."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmtool.report.check_github import MOST, check_github, command
from ssmtool.report.check_junit import check_junit
from ssmtool.report.check_markdown import check_markdown
from ssmtool.report.text.check import check_text
from tests.checks.models import checked, parts, write

NASTY = "a|b`<script>\"&'*_[x](http://e.vil)@you %0A::error file=x,y::z"
CHANGES = ("order.max=1", "redundant.max=0", "reach.max=1", "margin.min=1", "margin.severity=warn")


@pytest.fixture
def found(tmp_path):
    """An error, a warning, a pass and a skip on either of two layers, one of which has a hostile name."""
    return checked(write(tmp_path / "m,odel%.safetensors", {NASTY: parts(0), "b": parts(1)}), *CHANGES)


# What a JUnit file may be made of: element -> (required attributes, optional ones, children), after the XSD of
# Jenkins' xUnit plugin, which GitLab, GitHub's reporters and Azure read too.
JUNIT: dict[str, tuple[set[str], set[str], list[str]]] = {
    "testsuites": (set(), {"name", "time", "tests", "failures", "disabled", "errors"}, ["testsuite"]),
    "testsuite": (
        {"name", "tests"},
        {"failures", "errors", "time", "disabled", "skipped", "timestamp", "hostname", "id", "package"},
        ["properties", "testcase", "system-out", "system-err"],
    ),
    "properties": (set(), set(), ["property"]),
    "property": ({"name", "value"}, set(), []),
    "testcase": (
        {"name", "classname"},
        {"assertions", "time", "status"},
        ["skipped", "error", "failure", "system-out", "system-err"],
    ),
    "failure": (set(), {"type", "message"}, []),
    "skipped": (set(), {"message"}, []),
    "system-out": (set(), set(), []),
}


def valid(element: ElementTree.Element) -> None:
    """Names, attributes and order of children."""
    required, optional, children = JUNIT[element.tag]
    assert required <= set(element.keys()) <= required | optional, element.tag
    places = [children.index(child.tag) for child in element]
    assert places == sorted(places)
    for child in element:
        valid(child)


@pytest.mark.parametrize("strict", [False, True])
def test_junit(found, strict):
    root = ElementTree.fromstring(check_junit(found, strict))
    valid(root)
    assert root.tag == "testsuites"
    (suite,) = root
    cases = suite.findall("testcase")
    counts = {tag: len(suite.findall(f"testcase/{tag}")) for tag in ("failure", "skipped", "system-out")}
    assert counts == {"failure": 4 if strict else 2, "skipped": 2, "system-out": 0 if strict else 2}
    assert {name: int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")} == {
        "tests": len(cases), "failures": counts["failure"], "errors": 0, "skipped": 2,
    }  # fmt: skip
    assert len(cases) == len(found.findings) == 8
    assert cases[0].attrib["classname"].endswith(f".{NASTY}")
    assert len({(case.attrib["classname"], case.attrib["name"]) for case in cases}) == len(cases)
    failure = suite.find("testcase/failure")
    assert failure is not None
    assert failure.attrib["type"] == "order.max"
    assert "more than 1" in failure.attrib["message"]


def test_junit_of_characters_xml_cannot_hold(tmp_path):
    name = "bell\x07 null\x00 line\nend\ufffe"
    found = checked(write(tmp_path / "m.safetensors", {name: parts(0)}), "order.max=1")
    root = ElementTree.fromstring(check_junit(found))
    valid(root)
    assert r"bell\x07 null\x00 line\nend\ufffe" in ElementTree.tostring(root, encoding="unicode")


COMMAND = re.compile(r"::(error|warning|notice) ((?:\w+=[^:,\r\n]*,)*\w+=[^:,\r\n]*)::([^\r\n]*)")


def parsed(line: str) -> tuple[str, dict[str, str], str]:
    """A workflow command, as the runner reads it."""
    match = COMMAND.fullmatch(line)
    assert match, line
    properties = dict(part.split("=", 1) for part in match[2].split(","))
    back = {"%3A": ":", "%2C": ",", "%0D": "\r", "%0A": "\n", "%25": "%"}
    undone = {key: re.sub("%[0-9A-F]{2}", lambda m: back[m[0]], value) for key, value in properties.items()}
    return match[1], undone, re.sub("%(0D|0A|25)", lambda m: back[m[0]], match[3])


def test_annotations(found):
    lines = check_github(found).splitlines()
    path = str(found.models[0].model.checkpoint.path)
    levels = []
    for line in lines:
        level, properties, message = parsed(line)
        levels.append(level)
        assert properties["file"] == path
        assert message
    assert levels == ["error"] * 2 + ["warning"] * 2 + ["notice"]
    level, properties, message = parsed(lines[0])
    assert properties["title"] == "ssmtool order.max"
    assert message.startswith(f"{NASTY}: order for 99 % of Σσ: 7 of 8, more than 1")
    assert message.endswith("(command line)")


@given(st.text(), st.text())
def test_commands_read_back_as_what_they_were(text, title):
    line = command("error", text, title=title)
    assert "\n" not in line
    assert "\r" not in line
    assert parsed(line) == ("error", {"title": title}, text)


def test_there_are_at_most_ten_annotations_of_a_level(tmp_path):
    many = write(tmp_path / "m.safetensors", {f"layer.{i}": parts(i, 1, 2) for i in range(13)})
    lines = check_github(checked(many, "order.max=0")).splitlines()
    assert len(lines) == MOST
    assert parsed(lines[-1])[2] == "4 more errors: see the summary"


def test_markdown_of_hostile_names(found):
    text = check_markdown(found)
    assert text.startswith("## ssmtool check\n\n**The policy does not hold: 2 errors, 2 warnings, ")
    assert "<script" not in text
    assert "](http" not in text
    assert "@you" not in text
    tables = [row for row in text.splitlines() if row.startswith("|")]
    widths = {len(re.findall(r"(?<!\\)\|", row)) - 1 for row in tables}
    assert widths == {4, 8}  # cells of the two tables: none was split by a name
    assert text.count("❌") == 3  # two findings, one rule


def test_text_keeps_names_on_one_line(tmp_path):
    found = checked(write(tmp_path / "m.safetensors", {"a\n\x1b[31mred": parts(0)}), "order.max=1")
    text = check_text(found, terminal=False)
    assert "\x1b" not in text
    assert r"a\n\x1b[31mred" in text
