"""From what the user typed to the files that hold the weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ssmtool.checkpoint import hub
from ssmtool.checkpoint.files import reading, regular_size
from ssmtool.checkpoint.index import ShardIndex, read_index
from ssmtool.errors import CheckpointError

PICKLES = (".pt", ".bin", ".ckpt", ".pth")
WEIGHTS = (*PICKLES, ".safetensors", ".h5", ".msgpack", ".gguf", ".onnx", ".ot", ".npz")
"""Suffixes of files that hold weights in some format."""

_NOT_WEIGHTS = ("training_args", "optimizer", "scheduler", "scaler", "rng_state", "tokenizer", "vocab")
_SAVE = "Save the weights as model.safetensors, or give the weight file itself"


@dataclass(frozen=True)
class Located:
    """Where a checkpoint's weights are.

    Attributes:
        path: the file or directory.
        kind: how it was given.
        pickled: whether the weight files are pickles.
        names: the weight files, relative to the directory or just the file's name, sorted.
        index: of a sharded checkpoint.
    """

    path: Path
    kind: Literal["safetensors", "directory", "pickle"]
    pickled: bool
    names: tuple[str, ...]
    index: ShardIndex | None = None


def locate(target: str | Path) -> Located:
    """Find the weights `target` stands for; see `open_checkpoint`. Raises CheckpointError."""
    path = Path(target)
    if not str(target):
        raise CheckpointError("no checkpoint was named", remedy="Give a file, a directory or a cached hub name")
    with reading(path):
        found = _stat(path)
    if found is None:
        path = _cached(str(target))
    if path.is_dir():
        return _in_directory(path)
    regular_size(path)
    if path.suffix == ".safetensors":
        return Located(path, "safetensors", False, (path.name,))
    if path.suffix in PICKLES:
        return Located(path, "pickle", True, (path.name,))
    raise CheckpointError(
        f"has suffix {path.suffix!r}, which is no checkpoint's",
        where=str(path),
        remedy=f"Give a directory, a .safetensors file, or one ending in {', '.join(PICKLES)}",
    )


def is_weights(name: str) -> bool:
    """Whether a file of this name holds weights in some format, going by the name alone."""
    path = Path(name)
    return path.suffix in WEIGHTS and not path.name.startswith(("training_args", "tokenizer", "vocab"))


def _stat(path: Path) -> bool | None:
    """True if the path exists, None if not. Raises OSError for what cannot be looked at."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return True


def _cached(target: str) -> Path:
    if hub.is_name(target):
        if found := hub.snapshot(target):
            return found
        if target.count("/") == 1:
            raise CheckpointError(
                f"neither exists nor is a model in the local cache {hub.cache_folder()}",
                where=target,
                remedy=f"Check the path, or download it with `hf download {target}`",
            )
    raise CheckpointError("does not exist", where=target, remedy="Check the path")


def _in_directory(path: Path) -> Located:
    with reading(path):
        names = sorted(entry.name for entry in path.iterdir() if entry.is_file())

    def located(pickled: bool, name: str) -> Located:
        return Located(path, "directory", pickled, (name,))

    def sharded(pickled: bool, name: str) -> Located:
        index = read_index(path / name)
        return Located(path, "directory", pickled, tuple(index.shards), index)

    if "model.safetensors" in names:
        return located(False, "model.safetensors")
    if "model.safetensors.index.json" in names:
        return sharded(False, "model.safetensors.index.json")
    if only := _only(path, [n for n in names if n.endswith(".safetensors")]):
        return located(False, only)
    if "pytorch_model.bin" in names:
        return located(True, "pytorch_model.bin")
    if "pytorch_model.bin.index.json" in names:
        return sharded(True, "pytorch_model.bin.index.json")
    pickles = [n for n in names if n.endswith(PICKLES) and not n.startswith(_NOT_WEIGHTS)]
    if only := _only(path, pickles):
        return located(True, only)
    raise CheckpointError("holds no weights", where=str(path), remedy=_SAVE)


def _only(path: Path, candidates: list[str]) -> str | None:
    if len(candidates) > 1:
        shards = any("-of-" in name for name in candidates)
        raise CheckpointError(
            f"holds {len(candidates)} weight files and does not say which to read: {', '.join(candidates[:4])}",
            where=str(path),
            remedy="Add the missing index file (*.index.json)"
            if shards
            else "Give one of them instead of the directory",
        )
    return candidates[0] if candidates else None
