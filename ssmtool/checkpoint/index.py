"""The index of a sharded checkpoint: which tensor is in which file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from ssmtool.checkpoint.documents import clip, read_object
from ssmtool.checkpoint.files import Stamp, stamp
from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.errors import CheckpointError

AGAIN = "Download the checkpoint again"


@dataclass(frozen=True)
class ShardIndex:
    """A parsed ``*.index.json``.

    Attributes:
        path: of the index.
        stamp: what the file was when it was read.
        weight_map: tensor name -> shard name relative to the index, with ``/``.
        document: the whole JSON object.
    """

    path: Path
    stamp: Stamp
    weight_map: dict[str, str]
    document: dict[str, Any]

    @property
    def shards(self) -> list[str]:
        """Names of the shards, sorted."""
        return sorted(set(self.weight_map.values()))

    def file(self, shard: str) -> Path:
        """Where a shard lies."""
        return self.path.parent / shard


def read_index(path: Path) -> ShardIndex:
    """Read an index and check every shard's name and presence.

    Shard names are checked as names: they may be symbolic links that lead out of the directory, as all files of the
    Hugging Face cache are, but a name may not.

    Raises:
        CheckpointError: not such an index, a shard name that is absolute or leaves the directory, or a missing shard.
    """
    before = stamp(path)
    document = read_object(path, remedy=AGAIN)
    weight_map = document.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError("has no weight_map", where=str(path), remedy=AGAIN)
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not _stays_inside(shard):
            raise CheckpointError(
                f"places tensor {clip(name)} in {clip(str(shard))}, which is not a file of this directory",
                where=str(path),
                remedy="Do not use this checkpoint unless you know why",
            )
    index = ShardIndex(path, before, weight_map, document)
    missing = [shard for shard in index.shards if not _exists(index.file(shard))]
    if missing:
        raise CheckpointError(
            f"names {len(missing)} of {len(index.shards)} shards that are missing, first {clip(missing[0])}",
            where=str(path),
            remedy=AGAIN,
        )
    return index


def check_shards(index: ShardIndex, contents: Mapping[str, Mapping[str, TensorInfo]]) -> None:
    """Check that every shard holds exactly the tensors the index places in it.

    Args:
        index: of the checkpoint.
        contents: shard name -> its tensors.

    Raises:
        CheckpointError: naming the first tensor that is duplicated, missing or not indexed.
    """
    homes: dict[str, str] = {}
    for shard, tensors in contents.items():
        for name in tensors:
            if name in homes:
                raise CheckpointError(
                    f"tensor {clip(name)} is in both {clip(homes[name])} and {clip(shard)}",
                    where=str(index.path),
                    remedy=AGAIN,
                )
            homes[name] = shard
    for name in (*index.weight_map, *homes):
        said, found = index.weight_map.get(name), homes.get(name)
        if said != found:
            raise CheckpointError(
                f"places tensor {clip(name)} in {clip(said) if said else 'no shard'}, but it is in "
                f"{clip(found) if found else 'none of them'}",
                where=str(index.path),
                remedy="Index and shards belong to different versions: download both again",
            )


def _stays_inside(shard: str) -> bool:
    posix, windows = PurePosixPath(shard), PureWindowsPath(shard)
    if not shard or shard.endswith("/") or not shard.isprintable() or posix.is_absolute() or windows.anchor:
        return False
    return str(posix) == shard and ".." not in posix.parts and "\\" not in shard and shard != "."


def _exists(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name no file can have
        return False
