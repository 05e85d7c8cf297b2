"""A checkpoint opened for reading: headers at once, tensors when asked for."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ssmtool.checkpoint.documents import clip, read_object
from ssmtool.checkpoint.dtypes import BITS, decode
from ssmtool.checkpoint.files import blocks, check_unchanged, reading, stamp
from ssmtool.checkpoint.index import ShardIndex, check_shards
from ssmtool.checkpoint.locate import Located, locate
from ssmtool.checkpoint.pickle_file import PickleFile
from ssmtool.checkpoint.safetensors_file import SafetensorsFile
from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.checkpoint.weights_file import WeightsFile
from ssmtool.errors import CheckpointError


def open_checkpoint(target: str | Path) -> Checkpoint:
    """Open a checkpoint for reading; of safetensors only the headers are read.

    Args:
        target: a ``.safetensors`` file; a ``.pt``, ``.bin``, ``.ckpt`` or ``.pth`` file; a directory with, in this
            order, model.safetensors, model.safetensors.index.json and its shards, exactly one ``*.safetensors``,
            pytorch_model.bin, pytorch_model.bin.index.json and its shards, or exactly one pickle; or the name
            ``org/name`` of a model in the local Hugging Face cache (nothing is downloaded).

    Raises:
        CheckpointError: missing, ambiguous, truncated, damaged, unsafe, inconsistent or without tensors.
    """
    return Checkpoint(locate(target))


class Checkpoint:
    """Named tensors on disk. Made by `open_checkpoint`.

    Attributes:
        path: the file or directory.
        kind: ``"safetensors"``, ``"pickle"`` or ``"directory"`` (of either).
        pickled: whether the weights are in pickles.
        config: config.json of a directory, if there is one.
        metadata: the safetensors metadata of the (first) file; empty for pickles.
        tensors: shape and dtype of every tensor, shard by shard in stored order.
        data_bytes: bytes of all tensors.
        index: of a sharded directory.
        weights: the open files by their name relative to the directory (of a single file, its name).
    """

    def __init__(self, located: Located) -> None:
        self.path: Path = located.path
        self.kind: Literal["safetensors", "directory", "pickle"] = located.kind
        self.pickled: bool = located.pickled
        self.index: ShardIndex | None = located.index
        folder = located.path if located.kind == "directory" else located.path.parent
        opened = PickleFile if located.pickled else SafetensorsFile
        self.weights: Mapping[str, WeightsFile] = {name: opened(folder / name) for name in located.names}
        if self.index is not None:
            check_shards(self.index, {name: file.tensors for name, file in self.weights.items()})
        self._home = {name: file for file in self.weights.values() for name in file.tensors}
        if not self._home:
            raise CheckpointError("holds no tensors", where=str(self.path), remedy="Give a checkpoint with weights")
        self.tensors: Mapping[str, TensorInfo] = {name: file.tensors[name] for name, file in self._home.items()}
        self.data_bytes: int = sum(info.size * BITS[info.dtype] // 8 for info in self.tensors.values())
        self.metadata: dict[str, str] = dict(next(iter(self.weights.values())).metadata)
        self.config: dict[str, Any] | None = None
        self._stamps = {file.path: file.stamp for file in self.weights.values()}
        if self.index is not None:
            self._stamps[self.index.path] = self.index.stamp
        if self.kind == "directory":
            with reading(self.path):
                present = (self.path / "config.json").exists()
            if present:
                self._stamps[self.path / "config.json"] = stamp(self.path / "config.json")
                self.config = read_object(self.path / "config.json", remedy="Repair or remove it")
        self._sha256 = ""

    def read(self, name: str) -> np.ndarray:
        """A tensor's values, exactly.

        Returns:
            array of the stored shape: F64, F32, F16, BF16 -> float64; C64, C128 -> complex128; integers, BOOL -> int64.

        Raises:
            CheckpointError: no such tensor, a dtype that is not read as numbers, or values that are NaN or infinite.
        """
        info = self._info(name)
        where = f"{self._home[name].path}, tensor {clip(name)}"
        data = bytearray()
        for piece in self.chunks(name):
            data += piece
        values = decode(data, info.dtype, info.shape, where=where)
        bad = values.size - np.count_nonzero(np.isfinite(values))
        if bad:
            raise CheckpointError(
                f"{bad} of {values.size} values are NaN or infinite",
                where=where,
                remedy="Training diverged or the file is damaged: use an earlier checkpoint",
            )
        return values

    def chunks(self, name: str) -> Iterator[bytes]:
        """A tensor's bytes, little-endian and row-major, in pieces of at most 1 MiB. Raises CheckpointError."""
        self._info(name)
        return self._home[name].chunks(name)

    def check_unchanged(self) -> None:
        """Raises CheckpointError if a weight file, the index or config.json is not what it was when it was opened."""
        for path, before in self._stamps.items():
            check_unchanged(path, before)

    def files(self) -> list[Path]:
        """The weight files, and the index if there is one."""
        return [file.path for file in self.weights.values()] + ([self.index.path] if self.index else [])

    def sha256(self) -> str:
        """Hex digest of the file; of a directory, of the lines ``<hex>  <relative name>\\n`` of `files`, sorted.

        Computed once. Raises CheckpointError if a file cannot be read.
        """
        if not self._sha256:
            with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # hashing releases the interpreter lock
                digests = list(pool.map(_file_sha256, self.files()))
            if self.kind == "directory":
                names = [file.relative_to(self.path).as_posix() for file in self.files()]
                lines = sorted(f"{digest}  {name}\n" for digest, name in zip(digests, names, strict=True))
                digests = [hashlib.sha256("".join(lines).encode()).hexdigest()]
            self._sha256 = digests[0]
        return self._sha256

    def _info(self, name: str) -> TensorInfo:
        if name not in self.tensors:
            raise CheckpointError(f"holds no tensor {clip(name)}", where=str(self.path))
        return self.tensors[name]


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    for piece in blocks(path):
        digest.update(piece)
    return digest.hexdigest()
