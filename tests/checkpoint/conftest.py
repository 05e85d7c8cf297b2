"""Small valid checkpoints of every kind, and a fingerprint of a directory tree."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    """Tensors of two layers and a head; a 0-d and an empty one among them."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "layers.0.A": normal(4, 8),
        "layers.0.B": normal(4, 8).to(torch.bfloat16),
        "layers.1.A": normal(4, 8),
        "layers.1.C": torch.view_as_complex(normal(3, 2)),
        "head.weight": normal(5, 4).to(torch.float16),
        "head.empty": torch.zeros(0, 3),
        "head.scale": torch.tensor(1.5, dtype=torch.float64),
        "head.count": torch.arange(7, dtype=torch.int64),
    }


@pytest.fixture
def single(tmp_path: Path, state: dict[str, torch.Tensor]) -> Path:
    """One safetensors file."""
    path = tmp_path / "in" / "model.safetensors"
    path.parent.mkdir()
    save_file(state, path, metadata={"format": "pt", "note": "ours"})
    return path


@pytest.fixture
def sharded(tmp_path: Path, state: dict[str, torch.Tensor]) -> Path:
    """A directory with two shards, an index, a config, a card and what else such directories hold."""
    folder = tmp_path / "model"
    (folder / "original").mkdir(parents=True)
    names = {True: "model-00001-of-00002.safetensors", False: "model-00002-of-00002.safetensors"}
    weight_map = {name: names[name.startswith("layers")] for name in sorted(state)}
    for shard in names.values():
        save_file({n: t for n, t in state.items() if weight_map[n] == shard}, folder / shard, metadata={"format": "pt"})
    size = sum(t.numel() * t.element_size() for t in state.values())
    elements = sum(t.numel() for t in state.values())
    index = {"metadata": {"total_size": size, "total_parameters": elements}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text('{"model_type": "toy",   "n": 8}')
    (folder / "README.md").write_text("# Toy\n\n## Use\n\ntext\n")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "original" / "params.json").write_text("{}")
    (folder / "original" / "consolidated.00.pth").write_bytes(b"old")
    (folder / "pytorch_model.bin").write_bytes(b"old")
    (folder / "pytorch_model.bin.index.json").write_text("{}")
    (folder / "optimizer.pt").write_bytes(b"old")
    (folder / ".gitattributes").write_text("hidden")
    return folder


@pytest.fixture
def pickled(tmp_path: Path, state: dict[str, torch.Tensor]) -> Path:
    """A torch.save file with the weights nested beside training state."""
    path = tmp_path / "last.ckpt"
    optimizer = {"state": {0: {"exp_avg": torch.ones(50)}}, "param_groups": [{"lr": 0.1}]}
    torch.save({"state_dict": state, "optimizer": optimizer, "epoch": 3}, path)
    return path


@pytest.fixture
def fingerprint(tmp_path: Path) -> Callable[[], dict[str, str]]:
    """Call it for the digest of every file, and every directory's name, below tmp_path."""

    def take() -> dict[str, str]:
        return {
            str(path.relative_to(tmp_path)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
            for path in sorted(tmp_path.rglob("*"))
        }

    return take
