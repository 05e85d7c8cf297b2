"""Destinations that are refused before anything is written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ssmtool.checkpoint import Rewrite, open_checkpoint
from ssmtool.errors import OutputError

Fingerprint = Callable[[], dict[str, str]]


@pytest.fixture
def refused(tmp_path: Path, fingerprint: Fingerprint) -> Callable[[Path, str | Path, str], None]:
    """Checks that a destination is refused at once and nothing changes on disk."""

    def check(source: Path, destination: str | Path, message: str) -> None:
        before = fingerprint()
        with pytest.raises(OutputError, match=message) as caught:
            Rewrite(open_checkpoint(source), destination)
        assert caught.value.line().startswith(f"{destination}: ")
        assert fingerprint() == before

    return check


def test_output_exists(single: Path, sharded: Path, tmp_path: Path, refused: Callable) -> None:
    (tmp_path / "out.safetensors").write_text("mine")
    refused(single, tmp_path / "out.safetensors", "exists already. Choose another")
    (tmp_path / "out").mkdir()
    refused(sharded, tmp_path / "out", "exists already")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    refused(sharded, tmp_path / "dangling", "exists already")


def test_output_is_input(
    single: Path, sharded: Path, tmp_path: Path, refused: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    for source in (single, sharded):
        refused(source, source, "is the input itself")
        refused(source, source.parent / ".." / source.parent.name / source.name, "is the input itself")
        link = tmp_path / f"link-{source.name}"
        link.symlink_to(source)
        refused(source, link, "is the input itself")
        refused(link, source, "is the input itself")
        monkeypatch.chdir(source.parent)
        refused(source, source.name, "is the input itself")
        refused(Path(source.name), source, "is the input itself")
    os.link(single, tmp_path / "hard.safetensors")
    refused(single, tmp_path / "hard.safetensors", "is the input itself")


def test_output_inside_input(sharded: Path, tmp_path: Path, refused: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(sharded, sharded / "out", "lies inside the input")
    refused(sharded, sharded / "original" / "deep" / "out", "lies inside the input")
    (tmp_path / "alias").symlink_to(sharded)
    refused(sharded, tmp_path / "alias" / "out", "lies inside the input")
    monkeypatch.chdir(sharded)
    refused(Path("."), "out", "lies inside the input")


def test_parent(
    single: Path, sharded: Path, tmp_path: Path, refused: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(single, tmp_path / "no" / "out.safetensors", "parent directory does not exist. Create it: mkdir -p")
    refused(sharded, single / "out", "parent directory does not exist")
    monkeypatch.setattr(os, "access", lambda *_: False)
    refused(sharded, tmp_path / "out", "parent directory is not writable")


def test_kind(single: Path, sharded: Path, pickled: Path, tmp_path: Path, refused: Callable) -> None:
    refused(pickled, tmp_path / "out.pt", "pickles are written as safetensors. Name it out.safetensors")
    refused(single, tmp_path / "out", "is a safetensors file. Name it out.safetensors")
    refused(sharded, tmp_path / "out.safetensors", "the input is a directory, so the output is one")


@pytest.mark.parametrize("name", ["nul\0byte", "x" * 300, "lone\ud800"])
def test_names_no_file_can_have(sharded: Path, tmp_path: Path, name: str, fingerprint: Fingerprint) -> None:
    before = fingerprint()
    with (
        pytest.raises(OutputError, match=r"not a usable path|name too long"),
        Rewrite(open_checkpoint(sharded), tmp_path / name) as rewrite,
    ):
        rewrite.commit()
    assert fingerprint() == before


def test_relative_destination_survives_a_change_of_directory(
    single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Rewrite(open_checkpoint(single), "out.safetensors") as rewrite:
        monkeypatch.chdir(single.parent)
        rewrite.put("new", np.ones(2), "F32")
        assert rewrite.commit() == Path("out.safetensors")
    assert (tmp_path / "out.safetensors").exists()


def test_modes_are_those_of_new_files(sharded: Path, tmp_path: Path) -> None:
    with Rewrite(open_checkpoint(sharded), tmp_path / "out") as rewrite:
        rewrite.commit()
    (tmp_path / "probe").mkdir()
    (tmp_path / "probe" / "file").touch()
    for made, probe in (("out", "probe"), ("out/config.json", "probe/file")):
        assert (tmp_path / made).stat().st_mode == (tmp_path / probe).stat().st_mode
