"""Every command line and every Python block of the pages runs, and prints what the page says it prints."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator

import pytest
import torch

from tests.docs.alike import difference
from tests.docs.blocks import TOP, Block, blocks, pages, steps
from tests.docs.desk import Desk

SYNOPSIS = re.compile(r"[\[\]…]|\.\.\.|(?<![\w.-])[A-Z][A-Z_]+\b(?!=)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
ALL = [block for page in pages() for block in blocks(page) if block.kind != "text" or "from" in block.marks]


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    threads = torch.get_num_threads()
    yield Desk(tmp_path_factory.mktemp("docs"))
    torch.set_num_threads(threads)


@pytest.mark.parametrize("block", [b for b in ALL if b.kind == "console"], ids=lambda b: b.name)
def test_commands(desk: Desk, block: Block) -> None:
    marks = block.marks
    if "skip" in marks:
        pytest.skip(marks["skip"])
    lines = steps(block)
    for number, step in enumerate(lines):
        if not step.line.startswith("ssmtool"):
            elsewhere(desk, block, step.line)
        elif SYNOPSIS.search(step.line.partition("#")[0]):
            options_exist(step.line)
        else:
            code, came = desk.run(block.page, step.line)
            wanted = int(marks.get("exit", 0)) if number == len(lines) - 1 else 0
            assert code == wanted, f"{step.line}\n{came}"
            if step.shown is not None:
                wrong = difference(step.shown, came, marks.get("varies", ""))
                assert wrong is None, f"{block.name}: $ {step.line}\n{wrong}\n\n{came}"


@pytest.mark.parametrize("block", [b for b in ALL if b.kind == "span"], ids=lambda b: f"{b.name}-{b.text}")
def test_commands_in_sentences(desk: Desk, block: Block) -> None:
    marks = block.marks
    if "skip" in marks:
        pytest.skip(marks["skip"])
    if SYNOPSIS.search(block.text) or not any(word for word in block.text.split()[2:] if not word.startswith("-")):
        options_exist(block.text)
        return
    code, came = desk.run(block.page, block.text)
    if "Missing argument" in came:  # the sentence is about the options
        options_exist(block.text)
        return
    assert code == int(marks.get("exit", 0)), came


@pytest.mark.parametrize("block", [b for b in ALL if "from" in b.marks], ids=lambda b: b.name)
def test_excerpts(desk: Desk, block: Block) -> None:
    code, came = desk.run(block.page, block.marks["from"])
    assert code == 0, came
    wrong = difference(f"...\n{block.text}\n...", came, block.marks.get("varies", ""))
    assert wrong is None, f"{block.name}\n{wrong}\n\n{came}"


@pytest.mark.parametrize("page", dict.fromkeys(b.page for b in ALL if b.kind == "python"))
def test_python(desk: Desk, page: str) -> None:
    """The Python blocks of a page one after the other, as a reader would type them."""
    desk.python(page)


def elsewhere(desk: Desk, block: Block, line: str) -> None:
    """Commands of other programs: what they name has to be there; those that do no harm are run."""
    words = line.partition("#")[0].split()
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (TOP / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert words[1] in targets, line
    elif words[0] in ("python", "bash") or words[:3] == ["python", "-m", "pytest"]:
        named = [word for word in words[1:] if word.endswith((".py", ".sh"))]
        assert named, f"{block.name}: nothing to check in {line}"
        assert all((TOP / word).is_file() for word in named), line
    elif words[0] in ("ls", "cat", "head", "tail", "wc", "mkdir"):
        found = subprocess.run(line, shell=True, cwd=desk.folder(block.page), capture_output=True, text=True)
        assert found.returncode == 0, found.stderr
    else:
        pytest.fail(f"{block.name}: {words[0]} is not known here: mark the block with the reason why it is not run")


def options_exist(line: str) -> None:
    """A synopsis, or a command named in a sentence: the sub-command and the options are there."""
    from ssmtool.cli.app import command

    found = command()
    for word in line.split()[1:]:
        members = getattr(found, "commands", None)
        if members is None or not re.fullmatch(r"[a-z]+", word):
            break
        assert word in members, f"no such sub-command: {line}"
        found = members[word]
    known = {name for parameter in found.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    unknown = set(OPTION.findall(line)) - known
    assert not unknown, f"{line}: no such option: {sorted(unknown)}"


def test_python_is_fenced() -> None:
    """Python in an indented block would not be found, and not be coloured."""
    looks = re.compile(r"\s*(import \w|from \w+(\.\w+)* import)")
    found = [b.name for page in pages() for b in blocks(page) if b.kind == "text" and looks.match(b.text)]
    assert not found


def test_few_blocks_are_skipped() -> None:
    """What does not run is said, with a reason, and is the exception."""
    skipped = [block.name for block in ALL if "skip" in block.marks]
    assert len(skipped) <= len(ALL) // 10, skipped
