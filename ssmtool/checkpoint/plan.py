"""Which tensor goes into which file of the result, and in which order."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ssmtool.checkpoint.checkpoint import Checkpoint
from ssmtool.checkpoint.documents import clip
from ssmtool.checkpoint.dtypes import BITS
from ssmtool.checkpoint.files import blocks
from ssmtool.checkpoint.header import build_header
from ssmtool.checkpoint.safetensors_file import SafetensorsFile
from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.checkpoint.weights_file import WeightsFile
from ssmtool.errors import CheckpointError, OutputError


@dataclass(frozen=True)
class Spilled:
    """A new tensor's bytes, waiting in a temporary file.

    Attributes:
        crc: zlib.crc32 of the bytes when they were still in memory.
    """

    path: Path
    info: TensorInfo
    crc: int


@dataclass
class Shard:
    """One weight file of the result.

    Attributes:
        name: relative to the result directory.
        source: the file it is made from.
        tensors: name -> None for the source's own bytes, or the new ones; in the order of the data.
        metadata: of its header.
    """

    name: str
    source: WeightsFile
    tensors: dict[str, Spilled | None]
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def infos(self) -> dict[str, TensorInfo]:
        """Shape and dtype of every tensor, in order."""
        return {name: new.info if new else self.source.tensors[name] for name, new in self.tensors.items()}

    @property
    def unchanged(self) -> bool:
        """Whether the data section is that of a source in the same format."""
        same = list(self.tensors) == list(self.source.tensors) and not any(self.tensors.values())
        return same and isinstance(self.source, SafetensorsFile)

    def pieces(self) -> Iterator[bytes]:
        """The file's bytes. A file in which nothing changes is copied whole, its header included."""
        if self.unchanged and self.metadata == self.source.metadata:
            yield from blocks(self.source.path, expected=self.source.stamp)
            return
        yield build_header(self.infos, self.metadata)
        for name, new in self.tensors.items():
            yield from blocks(new.path) if new else self.source.chunks(name)

    def check(self, path: Path) -> None:
        """Check that the written file parses, lists these tensors, and holds every new one as it was in memory."""
        try:
            written = SafetensorsFile(path)
        except CheckpointError as error:
            raise OutputError(error.what, where=str(path)) from error
        if list(written.tensors.items()) != list(self.infos.items()):
            raise OutputError("lists other tensors than were written", where=str(path))
        for name, new in self.tensors.items():
            crc = 0
            for piece in written.chunks(name) if new else ():
                crc = zlib.crc32(piece, crc)
            if new and crc != new.crc:
                raise OutputError(
                    f"tensor {clip(name)} differs from what was put",
                    where=str(path),
                    remedy="The disk or memory is faulty",
                )


def plan_shards(
    source: Checkpoint, new: Mapping[str, Spilled], dropped: set[str], metadata: Mapping[str, str], single: str
) -> list[Shard]:
    """Plan the weight files of the result.

    Order and file of the source's tensors are kept. A new name goes right behind a tensor of the source: of those
    that are replaced or dropped, or of all if none is, the first that shares the longest dotted prefix with it. Where
    this would put a tensor at an offset its dtype cannot be viewed at, that file's tensors are sorted by element
    size, largest first, as the safetensors library does. Files left without tensors are left out.

    Args:
        source: the input.
        new: tensors to replace or add.
        dropped: names to leave out.
        metadata: merged into that of the first file.
        single: name of the file if the result is a single file; empty for a directory.

    Raises:
        OutputError: no tensor would be left.
    """
    touched = [name for name in source.tensors if name in dropped or name in new] or list(source.tensors)
    behind: dict[str, list[str]] = {}
    for name in new:
        if name not in source.tensors:
            behind.setdefault(max(touched, key=lambda other: _shared_prefix(name, other)), []).append(name)
    shards = []
    for file_name, file in source.weights.items():
        tensors: dict[str, Spilled | None] = {}
        for name in file.tensors:
            if name not in dropped:
                tensors[name] = new.get(name)
            tensors |= {added: new[added] for added in behind.get(name, ())}
        if tensors:
            shards.append(Shard(file_name, file, tensors, dict(file.metadata)))
    if not shards:
        raise OutputError("no tensor would be left", where=str(source.path))
    for number, shard in enumerate(shards, 1):
        if source.pickled:
            shard.metadata = {"format": "pt"}
            sharded = f"model-{number:05}-of-{len(shards):05}.safetensors"
            shard.name = sharded if source.index else "model.safetensors"
        shard.name = single or shard.name
        _align(shard)
    shards[0].metadata |= metadata
    return shards


def _shared_prefix(name: str, other: str) -> int:
    count = 0
    for mine, theirs in zip(name.split("."), other.split("."), strict=False):
        if mine != theirs:
            break
        count += 1
    return count


def _align(shard: Shard) -> None:
    if shard.unchanged:
        return
    infos, begin, aligned = shard.infos, 0, True
    for info in infos.values():
        aligned = aligned and begin % max(1, BITS[info.dtype] // 8) == 0
        begin += info.size * BITS[info.dtype] // 8
    if not aligned:
        shard.tensors = dict(sorted(shard.tensors.items(), key=lambda item: -BITS[infos[item[0]].dtype]))
