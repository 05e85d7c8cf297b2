"""Which files a target stands for."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ssmtool.checkpoint import open_checkpoint
from ssmtool.errors import CheckpointError

ONE = {"a": torch.ones(2)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "dir").mkdir()
    return tmp_path / "dir"


def refused(target: str | Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(target)


def test_files(single: Path, pickled: Path) -> None:
    source = open_checkpoint(str(single))
    assert (source.path, source.kind, source.pickled, source.config) == (single, "safetensors", False, None)
    assert source.metadata == {"format": "pt", "note": "ours"}
    assert source.files() == [single]
    assert source.data_bytes == 2 * 4 * 32 + 2 * 32 + 8 * 3 + 2 * 20 + 8 + 8 * 7
    other = open_checkpoint(pickled)
    assert (other.kind, other.pickled, other.metadata) == ("pickle", True, {})
    assert other.tensors.keys() == source.tensors.keys()
    assert other.data_bytes == source.data_bytes


def test_directory(sharded: Path) -> None:
    source = open_checkpoint(sharded)
    assert (source.kind, source.pickled, source.config) == ("directory", False, {"model_type": "toy", "n": 8})
    assert [file.name for file in source.files()] == [
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["model.safetensors", "weights.safetensors"])
def test_directory_with_one_safetensors(folder: Path, name: str) -> None:
    save_file(ONE, folder / name)
    torch.save(ONE, folder / "pytorch_model.bin")
    assert open_checkpoint(folder).files() == [folder / name]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "last.pt", "last.ckpt", "last.pth", "last.bin"])
def test_directory_with_one_pickle(folder: Path, name: str) -> None:
    torch.save(ONE, folder / name)
    torch.save(ONE, folder / "optimizer.pt")
    torch.save(ONE, folder / "training_args.bin")
    source = open_checkpoint(folder)
    assert (source.files(), source.kind, source.pickled) == ([folder / name], "directory", True)


def test_nothing_there(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    refused(tmp_path / "missing.safetensors", "missing.safetensors: does not exist. Check the path")
    refused("org/name", "neither exists nor is a model in the local cache .*hf download org/name")
    refused("", "no checkpoint was named")
    refused("nul\0byte", "not a usable path")
    refused(folder, "holds no weights.*model.safetensors")
    refused(folder / "x" / "y", "does not exist")


def test_several_candidates(folder: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        save_file(ONE, folder / name)
    refused(folder, "2 weight files and does not say which to read: a.safetensors, b.safetensors.*Give one")


def test_shards_without_index(folder: Path) -> None:
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        save_file(ONE, folder / name)
    refused(folder, "Add the missing index file")


def test_several_pickles(folder: Path) -> None:
    for name in ("step1.pt", "step2.pt"):
        torch.save(ONE, folder / name)
    refused(folder, "does not say which")


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    refused(tmp_path / "notes.txt", "suffix '.txt'")
    os.mkfifo(tmp_path / "pipe.safetensors")
    refused(tmp_path / "pipe.safetensors", "not a regular file")
    (tmp_path / "loop.safetensors").symlink_to(tmp_path / "loop.safetensors")
    refused(tmp_path / "loop.safetensors", "symbolic link")


@pytest.mark.parametrize(("text", "message"), [("{", "not valid JSON"), ("[]", "not an object"), ("\xff", "not valid")])
def test_bad_config(sharded: Path, text: str, message: str) -> None:
    (sharded / "config.json").write_text(text, encoding="latin-1")
    refused(sharded, f"config.json: .*{message}")


def test_unreadable_file(single: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)
    refused(single, "Permission denied. Make the file readable")


def cached(cache: Path, state: dict[str, torch.Tensor]) -> Path:
    """A model in the layout of the Hugging Face cache: files are links to ../../blobs."""
    repo = cache / "models--org--name"
    (repo / "blobs").mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc123")
    snapshot = repo / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    save_file(state, repo / "blobs" / "1")
    (repo / "blobs" / "2").write_text(
        json.dumps({"weight_map": dict.fromkeys(state, "model-00001-of-00001.safetensors")})
    )
    (snapshot / "model-00001-of-00001.safetensors").symlink_to("../../blobs/1")
    (snapshot / "model.safetensors.index.json").symlink_to("../../blobs/2")
    return snapshot


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"])
def test_cached_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    below = {"HF_HUB_CACHE": "", "HF_HOME": "hub", "XDG_CACHE_HOME": "huggingface/hub"}[variable]
    snapshot = cached(tmp_path / below, ONE)
    source = open_checkpoint("org/name")
    assert (source.path, source.kind, list(source.tensors)) == (snapshot, "directory", ["a"])
    (tmp_path / below / "models--org--name" / "refs" / "main").write_text("../../elsewhere")
    assert open_checkpoint("org/name").path == snapshot


def test_sha256(single: Path, sharded: Path) -> None:
    assert open_checkpoint(single).sha256() == hashlib.sha256(single.read_bytes()).hexdigest()
    source = open_checkpoint(sharded)
    lines = sorted(f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.name}\n" for f in source.files())
    assert source.sha256() == source.sha256() == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_torch_is_not_imported_for_safetensors(sharded: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from ssmtool.checkpoint import Rewrite, open_checkpoint\n"
        "source = open_checkpoint(sys.argv[1]); source.read('head.weight'); source.sha256()\n"
        "Rewrite(source, sys.argv[2]).commit(); assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(sharded), str(tmp_path / "out")], check=True)
