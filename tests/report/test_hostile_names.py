"""Layer names that are markup, terminal commands, formulas or half Unicode: shown as what they are, and no more."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ssmtool import plugins
from ssmtool.__main__ import main
from ssmtool.errors import SsmtoolError
from ssmtool.shown import markdown, one_line

NAMES = {
    "html": "<script>alert(1)</script>",
    "table": "a | b `c` *d* _e_",
    "link": "[x](https://example.org) ![y](z) https://example.org www.example.org @someone",
    "terminal": "\x1b[2J\x1b]0;title\x07\x9b31m",
    "lines": "a\nb\r\n# c\u2028d\x0be",
    "formula": r"$\frac{1}{0$ $$ \undefined",
    "half formula": "cost $5",
    "direction": "\u202egnp.exe\u2066",
    "long": "x" * 500,
    "sheet": "=HYPERLINK(0)",
}


@pytest.fixture(params=NAMES, ids=[name.replace(" ", "_") for name in NAMES])
def hostile(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """A model directory with a card, one of whose layers has such a name, and the name."""
    name = NAMES[request.param]
    arrays, _ = plugins.load("ssmtool.families", "s4d").tiny("s4d", 0)
    tensors = {n.replace("s4_layers.0", f"s4_layers.{name}"): torch.from_numpy(x) for n, x in arrays.items()}
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({n: x.clone() for n, x in tensors.items()}, folder / "model.safetensors")
    (folder / "README.md").write_text("# Model\n")
    return folder, name


def said(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    assert main([*map(str, args)]) == 0
    found = capsys.readouterr()
    assert found.err.replace("\n", "").isprintable()
    return found.out


def test_terminals_and_documents(hostile: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    folder, name = hostile
    for command in (["inspect", folder], ["hsv", folder, "--no-cache"]):
        assert said(capsys, *command).replace("\n", "").isprintable()
        found = json.loads(said(capsys, *command, "--json"))
        assert any(layer["name"].endswith(name) for layer in found["layers"]), "JSON has its own escapes, and the name"


def test_tables_and_pictures(hostile: tuple[Path, str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder, name = hostile
    for suffix in ("svg", "png", "pdf") if "$" in name else ("svg",):
        said(capsys, "hsv", folder, "--no-cache", "-q", "--plot", tmp_path / f"a.{suffix}", "--csv", tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        assert any(row[0].endswith(name) for row in csv.reader(file))
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "\x1b" not in text


def test_cards(hostile: tuple[Path, str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder, name = hostile
    said(capsys, "compress", folder, "--rank", "2", "-o", tmp_path / "out", "--no-cache")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    rows = [row for row in card.splitlines() if row.startswith("|")]
    plain = [row.replace("\\|", "") for row in rows]
    assert len(rows) == 2 + 2
    assert {row.count("|") for row in plain} == {8}, "a name ends no cell and no row"
    assert markdown(f"s4_layers.{name}") in card
    assert "<script" not in card
    assert "](http" not in card
    assert card.replace("\n", "").isprintable()


def test_the_escapes_of_markdown() -> None:
    assert markdown("<b>&") == "&lt;b&gt;&amp;"
    assert markdown("a|b") == "a\\|b"
    assert markdown("`x`") == "\\`x\\`"
    assert markdown("é σ") == "é σ"
    assert np.all([not set(markdown(name)) & set("<>\n\x1b") for name in NAMES.values()])


def test_an_error_obeys_nothing() -> None:
    line = SsmtoolError("is \x1b[2J odd", where="a\nb\x07", remedy="Say\u202e so").line()
    assert line == r"a b\x07: is \x1b[2J odd. Say\u202e so"
    assert one_line("é → σ₁") == "é → σ₁"
