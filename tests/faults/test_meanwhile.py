"""What others do meanwhile: the same output written twice at once, an input that changes under the reader's hands."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ssmtool.checkpoint import Rewrite, open_checkpoint
from ssmtool.errors import CheckpointError, OutputError
from ssmtool.pipeline import compress as compress_module
from ssmtool.pipeline.compress import compress
from ssmtool.pipeline.model import Model, load
from tests.faults.commands import COMMANDS
from tests.faults.runs import Server, files

TWICE = ("compress", "compress_directory", "refine", "train", "realize", "table")


@pytest.mark.parametrize("name", TWICE)
def test_two_runs_write_the_same_output_at_once(name: str, server: Server, work: Path) -> None:
    """One of them wins and the other says so in one line, or both leave the same complete files."""
    command, before = COMMANDS[name], files(work)
    whole = server.run(list(command.args), work)
    made = files(work)
    for result in command.results:
        path = work / result
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    both = [server.start(list(command.args), work) for _ in range(2)]
    ends = [started.wait() for started in both]
    assert 0 in (ends[0].code, ends[1].code), ends
    for end in ends:
        assert end.code in (0, 2), end
        if end.code == 2:
            assert end.err.count("\n") == 1
            assert any(x in end.err for x in ("appeared while", "exists already", "is being written to")), end.err
    assert whole.code == 0
    now = files(work)
    repeated = [path for path in made if path.startswith(command.repeated)]
    assert {path: now.get(path) for path in repeated} == {path: made[path] for path in repeated}
    assert {path for path in now if path not in made} == set(), "something was left behind"
    assert {path: now[path] for path in before} == before


def test_a_result_never_replaces_one_that_came_first(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where the other one appears between the last look and the move."""
    real, lexists = compress_module.Rewrite.commit, os.path.lexists
    destination = work / "out.safetensors"

    def commit(self: Rewrite) -> Path:
        monkeypatch.setattr(os.path, "lexists", lambda path: False if Path(path) == destination else lexists(path))
        destination.write_text("mine")
        return real(self)

    monkeypatch.setattr(compress_module.Rewrite, "commit", commit)
    with pytest.raises(OutputError, match="appeared while it was being written"):
        compress(load(work / "s4d.safetensors"), destination, rank=2, device="cpu")
    assert destination.read_text() == "mine"


def test_many_processes_write_one_table(server: Server, work: Path) -> None:
    """Readers see the old one or a new one at any moment."""
    args = ["hsv", "s4d.safetensors", "--csv", "hsv.csv", "--no-cache", "-q"]
    assert server.run(args, work).code == 0
    whole = (work / "hsv.csv").read_bytes()
    runs = [server.start(args, work) for _ in range(3)]
    seen = set()
    while any(Path(f"/proc/{run.process}/stat").read_text().split()[2] != "Z" for run in runs):
        seen.add((work / "hsv.csv").read_bytes())
        time.sleep(0.001)
    assert [run.wait().code for run in runs] == [0, 0, 0]
    assert seen == {whole}


# An input that changes.


def _in_place(path: Path) -> None:
    """Another number, the same size, as a training process that saves again would leave it."""
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    time.sleep(0.02)  # times of files have the grain of the system's clock tick
    path.write_bytes(content)


def _shorter(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 16)


def _replaced(path: Path) -> None:
    """A new file under the old name."""
    time.sleep(0.02)
    new = path.with_name("new")
    shutil.copy(path, new)
    os.replace(new, path)


CHANGES = [_in_place, _shorter, _replaced]
FILES = [
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    "config.json",
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", FILES)
def test_a_file_changes_before_anything_is_read(work: Path, name: str, change: Callable[[Path], None]) -> None:
    model, before = load(work / "sharded"), {path.name for path in work.iterdir()}
    change(work / "sharded" / name)
    with pytest.raises(CheckpointError, match="changed while it was in use") as caught:
        compress(model, work / "out", rank=2, device="cpu")
    assert name in caught.value.line()
    assert {path.name for path in work.iterdir()} == before


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", FILES)
def test_a_file_changes_after_everything_was_computed(
    work: Path, monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[[Path], None]
) -> None:
    before, real = {path.name for path in work.iterdir()}, compress_module.Rewrite.commit

    def commit(self: Rewrite) -> Path:
        change(work / "sharded" / name)
        return real(self)

    monkeypatch.setattr(compress_module.Rewrite, "commit", commit)
    with pytest.raises(CheckpointError, match="changed while it was in use"):
        compress(load(work / "sharded"), work / "out", rank=2, device="cpu")
    assert {path.name for path in work.iterdir()} == before


@pytest.mark.parametrize("file", ["s4d.safetensors", "s4d.pt"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_file_changes_between_two_layers(work: Path, file: str, change: Callable[[Path], None]) -> None:
    model, seen = load(work / file), []

    def progress(layer: Any, done: int, total: int) -> None:
        if not seen:
            seen.append(layer)
            change(work / file)

    with pytest.raises(CheckpointError, match="changed while it was in use"):
        model.hsv(device="cpu", progress=progress)


def test_a_file_that_grows_or_goes_is_not_read_either(work: Path) -> None:
    for damage in (lambda path: path.write_bytes(path.read_bytes() + b"x"), lambda path: path.unlink()):
        path = work / "copy.safetensors"
        shutil.copy(work / "s4d.safetensors", path)
        source = open_checkpoint(path)
        damage(path)
        with pytest.raises(CheckpointError):
            source.read(next(iter(source.tensors)))


def test_looking_at_a_file_is_no_change(work: Path) -> None:
    """Reading, a second name, other permissions: the bytes are the same, and the run goes on."""
    path = work / "s4d.safetensors"
    source = open_checkpoint(path)
    path.read_bytes()
    os.link(path, work / "second.safetensors")
    path.chmod(0o400)
    assert all(source.read(name) is not None for name in source.tensors)
    source.check_unchanged()


# NaN in one tensor of a hundred.


@pytest.fixture(scope="module")
def hundred(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A model of 25 layers and a hundred tensors, one number of one of which is NaN: file, layer, tensor."""
    from ssmtool import plugins

    arrays, _ = plugins.load("ssmtool.families", "s4d").tiny("s4d", 0)
    first = {n.removeprefix("s4_layers.0."): x for n, x in arrays.items() if n.startswith("s4_layers.0.kernel")}
    tensors = {
        f"s4_layers.{layer}.{n}": torch.from_numpy(np.array(x, order="C"))
        for layer in range(25)
        for n, x in first.items()
    }
    tensors |= {f"s4_layers.{layer}.D": torch.from_numpy(arrays["s4_layers.0.D"]).clone() for layer in range(25)}
    bad = random.Random(0).choice(sorted(name for name in tensors if name.endswith("kernel.C")))
    tensors[bad] = tensors[bad].clone()
    tensors[bad].reshape(-1)[1] = float("nan")
    path = tmp_path_factory.mktemp("hundred") / "model.safetensors"
    save_file(tensors, path)
    assert len(load_file(path)) >= 100
    return path, bad.removesuffix(".kernel.C"), bad


@pytest.mark.parametrize("command", [["hsv", "--no-cache"], ["compress", "--rank", "2", "-o", "out.safetensors"]])
def test_one_nan_in_a_hundred_tensors_is_named(
    command: list[str], hundred: tuple[Path, str, str], server: Server, work: Path
) -> None:
    path, _, tensor = hundred
    found = server.run([command[0], str(path), *command[1:]], work)
    assert (found.code, found.out) == (2, "")
    assert found.err.count("\n") == 1
    assert f"tensor '{tensor}': 1 of " in found.err
    assert "NaN or infinite" in found.err
    assert not (work / "out.safetensors").exists()


def test_the_other_layers_are_served_when_they_are_asked_for(hundred: tuple[Path, str, str]) -> None:
    """Nothing is left out silently: whoever wants the rest names it."""
    path, layer, _ = hundred
    model: Model = load(path)
    others = [x.name for x in model.layers if x.name != layer]
    assert len(model.hsv(others, device="cpu")) == len(model.layers) - 1
