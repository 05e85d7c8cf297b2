"""A checkpoint written anew with some tensors changed: streaming, verified, all or nothing."""

from __future__ import annotations

import copy
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ssmtool.checkpoint.card import with_section
from ssmtool.checkpoint.carry import companions
from ssmtool.checkpoint.checkpoint import Checkpoint
from ssmtool.checkpoint.destination import Stage, resolve_destination
from ssmtool.checkpoint.documents import clip
from ssmtool.checkpoint.dtypes import BITS, encode
from ssmtool.checkpoint.files import BLOCK, blocks, read_small, write_file, writing
from ssmtool.checkpoint.header import METADATA
from ssmtool.checkpoint.outputs import Output, write_outputs
from ssmtool.checkpoint.plan import Shard, Spilled, plan_shards
from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.errors import OutputError


class Rewrite:
    """Writes a changed copy of a checkpoint. Use as a context manager; nothing is visible before `commit` returns.

    A file becomes a file, a directory a directory; pickles become safetensors. Tensors that are not touched stay byte
    for byte, in their order and file (see `plan_shards` for new names). Changed tensors and finished files wait in a
    temporary directory beside the destination, which is renamed at the end: whenever the process dies, the
    destination is absent or complete. Memory stays at one tensor.

    Args:
        source: the input; never written to.
        destination: must not exist; its parent must.

    Attributes:
        config: content of config.json of a directory; the source's, until changed. Unchanged, the file is copied as
            it is.
        metadata: merged into the safetensors metadata of the (first) file.
        files: further files of a directory, name -> content; they replace the source's of the same name.
        card: a Markdown section starting ``## ``, put into README.md of a directory that has one.
        skipped: files of the directory that do not go along, and what a pickle held beside the weights.

    Raises:
        OutputError: at once, if the destination cannot be used or the source holds a dtype safetensors cannot store.
    """

    def __init__(self, source: Checkpoint, destination: str | Path) -> None:
        self._source = source
        self._destination = Path(destination)
        self._place = resolve_destination(source, destination)
        for name, info in source.tensors.items():
            self._check_storable(name, info.dtype)
        self._companions, self.skipped = companions(source)
        self.skipped += [f"{name}[{extra}]" for name, file in source.weights.items() for extra in file.extras]
        self.config: dict[str, Any] | None = copy.deepcopy(source.config)
        self.metadata: dict[str, str] = {}
        self.files: dict[str, bytes] = {}
        self.card: str | None = None
        self._stage = Stage(self._place)
        self._new: dict[str, Spilled] = {}
        self._dropped: set[str] = set()
        self._spills = 0

    def __enter__(self) -> Rewrite:
        return self

    def __exit__(self, *_: object) -> None:
        self._stage.discard()

    def put(self, name: str, array: np.ndarray, dtype: str) -> None:
        """Replace or add a tensor. It is encoded and stored on disk at once; the last of several puts counts.

        Args:
            array: real, complex or integer, any shape; rounded to `dtype` as `round_to` does.
            dtype: safetensors spelling.

        Raises:
            OutputError: values `dtype` cannot hold, a dtype or name safetensors cannot store, or a full disk.
        """
        self._check_storable(name, dtype)
        values = np.asarray(array)
        data = encode(values, dtype, where=self._at(name))
        self._spills += 1
        path = self._stage.folder / f"put-{self._spills}"
        with self._named_as_destination():
            write_file(path, (data[i : i + BLOCK].tobytes() for i in range(0, data.size, BLOCK)))
        self._forget(name)
        self._new[name] = Spilled(path, TensorInfo(values.shape, dtype), zlib.crc32(data.data))
        self._dropped.discard(name)

    def drop(self, name: str) -> None:
        """Leave a tensor out. Raises OutputError if there is none of that name."""
        if name not in self._source.tensors and name not in self._new:
            raise OutputError("there is no such tensor to drop", where=self._at(name))
        self._forget(name)
        if name in self._source.tensors:
            self._dropped.add(name)

    def commit(self) -> Path:
        """Write everything, verify it, flush it to disk and rename it into place.

        Returns:
            the destination as it was given.

        Raises:
            OutputError: disk full, destination appeared meanwhile, verification failed, or settings that do not fit.
            CheckpointError: the source cannot be read any more.
        """
        try:
            with self._named_as_destination():
                outputs = self._outputs()
                root = self._stage.folder / "result"
                with writing(root):
                    root.mkdir()
                # PyTorch's pickles are read through one shared mapping, so one thread reads them
                write_outputs(outputs, root, workers=1 if self._source.pickled else 2)
                self._source.check_unchanged()
                self._stage.publish(root if self._source.kind == "directory" else root / outputs[0].name)
        finally:
            self._stage.discard()
        return self._destination

    def _outputs(self) -> list[Output]:
        directory = self._source.kind == "directory"
        metadata = {str(key): str(value) for key, value in self.metadata.items()}
        single = "" if directory else self._place.name
        shards = plan_shards(self._source, self._new, self._dropped, metadata, single)
        outputs = [Output(shard.name, shard.pieces, shard.check) for shard in shards]
        if not directory:
            if self.config is not None or self.files:
                beside = "config.json" if self.config is not None else ", ".join(self.files)
                raise OutputError(f"a single file has no {beside}", where=str(self._destination))
            return outputs
        texts = self._documents(shards)
        outputs += [_text(name, content) for name, content in texts.items()]
        outputs += [_copy(name, self._source.path / name) for name in self._companions if name not in texts]
        return outputs

    def _documents(self, shards: list[Shard]) -> dict[str, bytes]:
        """The text files that change: name -> content."""
        texts = dict(self.files)
        if self.config is not None and self.config != self._source.config:
            texts["config.json"] = _json(self.config)
        if self._source.index is not None:
            name = self._source.index.path.name
            if self._source.pickled:
                name = "model.safetensors.index.json"
            texts[name] = self._index(shards)
        if self.card is not None and "README.md" in self._companions:
            if not self.card.lstrip().startswith("## "):
                raise OutputError("the card section does not start with a '## ' heading", where="README.md")
            readme = read_small(self._source.path / "README.md").decode("utf-8", "surrogateescape")
            texts["README.md"] = with_section(readme, self.card).encode("utf-8", "surrogateescape")
        return texts

    def _index(self, shards: list[Shard]) -> bytes:
        source = self._source.index
        assert source is not None
        if not (self._new or self._dropped or self._source.pickled):
            return read_small(source.path)
        infos = {name: info for shard in shards for name, info in shard.infos.items()}
        homes = {name: shard.name for shard in shards for name in shard.tensors}
        order = [name for name in source.weight_map if name in homes]
        order += [name for name in homes if name not in source.weight_map]
        metadata = source.document.get("metadata")
        metadata = dict(metadata) if isinstance(metadata, dict) else {}
        metadata["total_size"] = sum(info.size * BITS[info.dtype] // 8 for info in infos.values())
        if isinstance(metadata.get("total_parameters"), int):  # may count otherwise than elements: keep the difference
            before = sum(info.size for info in self._source.tensors.values())
            metadata["total_parameters"] += sum(info.size for info in infos.values()) - before
        weight_map = {name: homes[name] for name in order}
        return _json({**source.document, "metadata": metadata, "weight_map": weight_map})

    def _check_storable(self, name: str, dtype: str) -> None:
        if dtype == "C128" or dtype not in BITS:
            raise OutputError(
                f"safetensors cannot store {dtype}",
                where=self._at(name),
                remedy="Convert that tensor to complex64 first",
            )
        if name == METADATA:
            raise OutputError("safetensors reserves that name", where=self._at(name), remedy="Rename the tensor")
        try:
            name.encode("utf-8")
        except UnicodeEncodeError as error:
            raise OutputError("the name is not valid Unicode", where=self._at(name)) from error

    def _forget(self, name: str) -> None:
        if earlier := self._new.pop(name, None):
            earlier.path.unlink(missing_ok=True)

    def _at(self, name: str) -> str:
        return f"{self._destination}, tensor {clip(name)}"

    @contextmanager
    def _named_as_destination(self) -> Iterator[None]:
        """Let errors speak of the destination instead of the temporary directory, which is gone when they are read."""
        try:
            yield
        except OutputError as error:
            folder = str(self._stage.made)
            if self._stage.made is None or not error.where.startswith(folder):
                raise
            rest = error.where.removeprefix(folder).removeprefix("/result")
            inside = rest if self._source.kind == "directory" and not rest.startswith("/put-") else ""
            raise OutputError(error.what, where=f"{self._destination}{inside}", remedy=error.remedy) from error


def _text(name: str, content: bytes) -> Output:
    return Output(name, lambda: iter((content,)))


def _copy(name: str, path: Path) -> Output:
    return Output(name, lambda: blocks(path))


def _json(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=2) + "\n").encode("utf-8")
