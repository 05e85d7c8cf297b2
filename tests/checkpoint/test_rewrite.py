"""Rewriting: what changes, what stays, and where it ends up."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ssmtool.checkpoint import Rewrite, open_checkpoint, round_to
from ssmtool.errors import OutputError

Fingerprint = Callable[[], dict[str, str]]


def raw(path: Path, name: str) -> bytes:
    return b"".join(open_checkpoint(path).chunks(name))


def test_untouched_file_is_copied_byte_for_byte(single: Path, tmp_path: Path) -> None:
    with Rewrite(open_checkpoint(single), tmp_path / "out.safetensors") as rewrite:
        assert rewrite.commit() == tmp_path / "out.safetensors"
    assert (tmp_path / "out.safetensors").read_bytes() == single.read_bytes()


def test_untouched_directory_is_copied_byte_for_byte(sharded: Path, tmp_path: Path) -> None:
    with Rewrite(open_checkpoint(sharded), tmp_path / "out") as rewrite:
        rewrite.commit()
    written = {p.relative_to(tmp_path / "out").as_posix(): p for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert set(written) == {
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json",
        "config.json", "README.md", "tokenizer.json", "original/params.json",
    }  # fmt: skip
    assert all(path.read_bytes() == (sharded / name).read_bytes() for name, path in written.items())
    assert rewrite.skipped == [
        "optimizer.pt", "original/consolidated.00.pth", "pytorch_model.bin", "pytorch_model.bin.index.json"
    ]  # fmt: skip


def test_replace_drop_and_add_in_shards(sharded: Path, tmp_path: Path, fingerprint: Fingerprint) -> None:
    before = fingerprint()
    source = open_checkpoint(sharded)
    smaller = np.linspace(-1, 1, 12).reshape(4, 3)
    with Rewrite(source, tmp_path / "out") as rewrite:
        rewrite.put("layers.1.A", smaller, "F32")
        rewrite.put("layers.1.new", smaller + 2j, "C64")
        rewrite.put("layers.1.new", smaller + 1j, "C64")
        rewrite.drop("layers.0.B")
        rewrite.config = {**(rewrite.config or {}), "n": 3}
        rewrite.metadata = {"tool": "ssmtool"}
        rewrite.card = "## Reduction\n\nfrom 8 to 3"
        rewrite.commit()
    out = open_checkpoint(tmp_path / "out")
    assert {k: v for k, v in fingerprint().items() if not k.startswith("out")} == before
    assert list(out.tensors) == [
        name for old in source.tensors if old != "layers.0.B"
        for name in ([old, "layers.1.new"] if old == "layers.1.A" else [old])
    ]  # fmt: skip
    np.testing.assert_array_equal(out.read("layers.1.A"), round_to(smaller, "F32"))
    np.testing.assert_array_equal(out.read("layers.1.new"), round_to(smaller + 1j, "C64"))
    for name in set(source.tensors) - {"layers.1.A", "layers.0.B"}:
        assert raw(tmp_path / "out", name) == raw(sharded, name)
    assert out.config == {"model_type": "toy", "n": 3}
    assert out.metadata == {"format": "pt", "tool": "ssmtool"}
    assert (tmp_path / "out" / "README.md").read_text() == "# Toy\n\n## Use\n\ntext\n\n## Reduction\n\nfrom 8 to 3\n"
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {
        "total_size": out.data_bytes, "total_parameters": sum(info.size for info in out.tensors.values())
    }  # fmt: skip
    assert index["weight_map"]["layers.1.new"] == "model-00001-of-00002.safetensors"
    assert "layers.0.B" not in index["weight_map"]
    same = "model-00002-of-00002.safetensors"
    assert (tmp_path / "out" / same).read_bytes() == (sharded / same).read_bytes()
    for file in out.files()[:-1]:
        load_file(file)


def test_metadata_keeps_the_sources(single: Path, tmp_path: Path) -> None:
    with Rewrite(open_checkpoint(single), tmp_path / "out.safetensors") as rewrite:
        rewrite.metadata = {"note": "new"}
        rewrite.commit()
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "note": "new"}


def test_new_name_goes_to_the_most_related_touched_tensor(sharded: Path, tmp_path: Path) -> None:
    with Rewrite(open_checkpoint(sharded), tmp_path / "out") as rewrite:
        rewrite.drop("layers.0.A")
        rewrite.drop("head.weight")
        rewrite.put("head.bias", np.ones(2), "F16")
        rewrite.put("other", np.ones(2), "F32")
        rewrite.commit()
    weight_map = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())["weight_map"]
    assert weight_map["head.bias"] == "model-00002-of-00002.safetensors"
    assert weight_map["other"] == "model-00001-of-00002.safetensors"


def test_every_tensor_stays_aligned_for_the_library(single: Path, tmp_path: Path) -> None:
    with Rewrite(open_checkpoint(single), tmp_path / "out.safetensors") as rewrite:
        rewrite.put("layers.0.B", np.ones(3), "F16")
        rewrite.put("head.odd", np.ones(3), "U8")
        rewrite.put("head.wide", np.ones(3), "F64")
        rewrite.commit()
    loaded = load_file(tmp_path / "out.safetensors")
    assert loaded["head.wide"].tolist() == [1, 1, 1]
    assert loaded["layers.0.B"].dtype == torch.float16
    assert raw(tmp_path / "out.safetensors", "head.scale") == raw(single, "head.scale")


def test_emptied_shard_is_left_out(sharded: Path, tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    with Rewrite(open_checkpoint(sharded), tmp_path / "out") as rewrite:
        for name in state:
            if name.startswith("head"):
                rewrite.drop(name)
        rewrite.commit()
    assert not (tmp_path / "out" / "model-00002-of-00002.safetensors").exists()
    assert open_checkpoint(tmp_path / "out").tensors.keys() == {n for n in state if n.startswith("layers")}


@pytest.mark.parametrize("nested", [False, True])
def test_pickled_file_becomes_safetensors(
    pickled: Path, tmp_path: Path, state: dict[str, torch.Tensor], nested: bool
) -> None:
    source, out = pickled, tmp_path / "out.safetensors"
    if nested:
        (tmp_path / "dir").mkdir()
        source, out = tmp_path / "dir", tmp_path / "out"
        shutil.move(pickled, source / "pytorch_model.bin")
    with Rewrite(open_checkpoint(source), out) as rewrite:
        rewrite.drop("head.count")
        rewrite.commit()
    file = "pytorch_model.bin" if nested else "last.ckpt"
    assert rewrite.skipped == [f"{file}[optimizer]", f"{file}[epoch]"]
    loaded = load_file(out / "model.safetensors" if nested else out)
    assert loaded.keys() == state.keys() - {"head.count"}
    assert all(torch.equal(loaded[name], state[name]) for name in loaded)
    assert open_checkpoint(out).metadata == {"format": "pt"}


def test_sharded_pickles_become_sharded_safetensors(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    weight_map = {name: f"pytorch_model-{'ab'[name.startswith('head')]}.bin" for name in state}
    for shard in set(weight_map.values()):
        torch.save({n: t for n, t in state.items() if weight_map[n] == shard}, folder / shard)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    source = open_checkpoint(folder)
    assert (source.kind, source.pickled) == ("directory", True)
    with Rewrite(source, tmp_path / "out") as rewrite:
        rewrite.commit()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"
    ]  # fmt: skip
    out = open_checkpoint(tmp_path / "out")
    assert all(raw(tmp_path / "out", n) == b"".join(source.chunks(n)) for n in state)
    assert list(out.tensors) != []


def test_put_after_drop_and_drop_after_put(single: Path, tmp_path: Path) -> None:
    with Rewrite(open_checkpoint(single), tmp_path / "out.safetensors") as rewrite:
        rewrite.drop("head.count")
        rewrite.put("head.count", np.arange(2), "I64")
        rewrite.put("extra", np.arange(2), "I64")
        rewrite.drop("extra")
        rewrite.commit()
    out = open_checkpoint(tmp_path / "out.safetensors")
    assert out.read("head.count").tolist() == [0, 1]
    assert "extra" not in out.tensors


def test_symlinked_files_become_files_and_linked_directories_are_told(sharded: Path, tmp_path: Path) -> None:
    (tmp_path / "blob").write_text("content")
    (sharded / "merges.txt").symlink_to(tmp_path / "blob")
    (sharded / "loop").symlink_to(sharded, target_is_directory=True)
    (sharded / "gone.txt").symlink_to(tmp_path / "nowhere")
    with Rewrite(open_checkpoint(sharded), tmp_path / "out") as rewrite:
        rewrite.commit()
    assert (tmp_path / "out" / "merges.txt").read_text() == "content"
    assert not (tmp_path / "out" / "merges.txt").is_symlink()
    assert {"loop", "gone.txt"} <= set(rewrite.skipped)


def test_refused_changes(single: Path, tmp_path: Path, fingerprint: Fingerprint) -> None:
    before = fingerprint()
    with Rewrite(open_checkpoint(single), tmp_path / "out.safetensors") as rewrite:
        for message, name, array, dtype in [
            ("complex64", "x", np.ones(1), "C128"),
            ("reserves", "__metadata__", np.ones(1), "F32"),
            ("Unicode", "\ud800", np.ones(1), "F32"),
            ("do not fit into F16", "x", np.array([1e6]), "F16"),
            ("NaN", "x", np.array([np.nan]), "F32"),
        ]:
            with pytest.raises(OutputError, match=message):
                rewrite.put(name, array, dtype)
        with pytest.raises(OutputError, match="no such tensor"):
            rewrite.drop("nothing")
        rewrite.config = {}
        with pytest.raises(OutputError, match="single file"):
            rewrite.commit()
    with Rewrite(open_checkpoint(single), tmp_path / "out.safetensors") as rewrite:
        for name in open_checkpoint(single).tensors:
            rewrite.drop(name)
        with pytest.raises(OutputError, match="no tensor would be left"):
            rewrite.commit()
    assert fingerprint() == before


def test_complex128_pickle_is_refused_at_once(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2, dtype=torch.complex128)}, tmp_path / "a.pt")
    source = open_checkpoint(tmp_path / "a.pt")
    assert source.read("a").dtype == np.complex128
    with pytest.raises(OutputError, match="complex64"):
        Rewrite(source, tmp_path / "b.safetensors")


def test_card_must_start_with_a_heading(sharded: Path, tmp_path: Path) -> None:
    with Rewrite(open_checkpoint(sharded), tmp_path / "out") as rewrite:
        rewrite.card = "no heading"
        with pytest.raises(OutputError, match="heading"):
            rewrite.commit()
    assert not (tmp_path / "out").exists()
