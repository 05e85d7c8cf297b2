"""Indices that do not fit their shards, or reach out of their directory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ssmtool.checkpoint import open_checkpoint
from ssmtool.errors import CheckpointError

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.fixture
def edit(sharded: Path) -> Callable[[Callable[[dict], object]], Path]:
    """Edit the index in place; returns the directory."""

    def change(how: Callable[[dict], object]) -> Path:
        path = sharded / "model.safetensors.index.json"
        document = json.loads(path.read_text())
        how(document)
        path.write_text(json.dumps(document))
        return sharded

    return change


def refused(target: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(target)


@pytest.mark.parametrize(
    "shard",
    ["/etc/passwd", "../x.safetensors", "a/../../x.safetensors", "..", ".", "", "C:\\x", "C:x", "..\\x", "a//b", "a\0b",
     "\ud800", "./a", "a/", 3, None, ["a"]],
)  # fmt: skip
def test_shard_name_that_leaves_the_directory(edit: Callable, shard: object) -> None:
    refused(
        edit(lambda index: index["weight_map"].update({"head.weight": shard})),
        "places tensor 'head.weight' in .*, which is not a file of this directory",
    )


def test_missing_shard(sharded: Path) -> None:
    (sharded / SECOND).unlink()
    refused(sharded, f"names 1 of 2 shards that are missing, first '{SECOND}'. Download")


def test_name_no_file_can_have(edit: Callable) -> None:
    refused(edit(lambda index: index["weight_map"].update({"head.weight": "x" * 5000})), "missing")


def test_tensor_in_two_shards(sharded: Path, state: dict[str, torch.Tensor]) -> None:
    save_file(state, sharded / FIRST)
    refused(sharded, f"'head.count' is in both '{FIRST}' and '{SECOND}'")


def test_tensor_the_shards_lack(edit: Callable) -> None:
    refused(
        edit(lambda index: index["weight_map"].update({"more": FIRST})), f"'more' in '{FIRST}', but .* in none of them"
    )


def test_tensor_the_index_lacks(edit: Callable) -> None:
    refused(edit(lambda index: index["weight_map"].pop("layers.0.A")), "'layers.0.A' in no shard, but")


def test_tensor_in_another_shard(edit: Callable) -> None:
    refused(edit(lambda index: index["weight_map"].update({"layers.0.A": SECOND})), "different versions")


@pytest.mark.parametrize("text", ["{}", '{"weight_map": []}', '{"weight_map": {}}'])
def test_no_weight_map(sharded: Path, text: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(text)
    refused(sharded, "has no weight_map")


def test_shard_of_the_wrong_kind(sharded: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save(state, sharded / FIRST)
    refused(sharded, "PyTorch pickle, not safetensors")


def test_shard_in_a_subdirectory(edit: Callable, sharded: Path) -> None:
    (sharded / "sub").mkdir()
    (sharded / SECOND).rename(sharded / "sub" / SECOND)

    def move(index: dict) -> None:
        index["weight_map"] = {n: s if s == FIRST else f"sub/{s}" for n, s in index["weight_map"].items()}

    assert len(open_checkpoint(edit(move)).tensors) == 8


def test_no_tensors_at_all(tmp_path: Path) -> None:
    save_file({}, tmp_path / "model.safetensors")
    refused(tmp_path, "holds no tensors")
