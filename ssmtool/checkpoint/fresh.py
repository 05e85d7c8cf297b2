"""A checkpoint that is made from nothing: one new safetensors file, verified, all or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ssmtool.checkpoint.destination import Stage, resolve_new
from ssmtool.checkpoint.documents import clip
from ssmtool.checkpoint.dtypes import BITS, encode
from ssmtool.checkpoint.files import BLOCK
from ssmtool.checkpoint.header import METADATA, build_header
from ssmtool.checkpoint.outputs import Output, write_outputs
from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.errors import OutputError


class NewFile:
    """Writes a new safetensors file. The destination is looked at when this is made, so before any work is done for it.

    Like `Rewrite`, it writes beside the destination, reads back what it wrote, flushes it to disk and renames it:
    whenever the process dies, the destination is absent or complete.

    Args:
        destination: must not exist; its parent must.

    Raises:
        OutputError: the destination cannot be used.
    """

    def __init__(self, destination: str | Path) -> None:
        self._destination = Path(destination)
        self._place = resolve_new(destination)

    def write(self, tensors: Mapping[str, tuple[np.ndarray, str]], metadata: Mapping[str, str]) -> Path:
        """Write the file and rename it into place.

        Args:
            tensors: name -> (values, dtype as safetensors spells it); rounded as `round_to` does.
            metadata: strings for the header.

        Returns:
            the destination as it was given.

        Raises:
            OutputError: nothing to write, values or a dtype that safetensors cannot store, a full disk, or a
                destination that appeared meanwhile.
        """
        if not tensors:
            raise OutputError("no tensor would be written", where=str(self._destination))
        infos: dict[str, TensorInfo] = {}
        data: list[np.ndarray] = []
        # Largest elements first, so that every tensor starts at an offset its dtype can be viewed at.
        for name, (values, dtype) in sorted(tensors.items(), key=lambda item: -BITS.get(item[1][1], 0)):
            where = f"{self._destination}, tensor {clip(name)}"
            if name == METADATA or dtype == "C128":
                what = "safetensors reserves that name" if name == METADATA else "safetensors cannot store C128"
                raise OutputError(what, where=where)
            data.append(encode(values, dtype, where=where))
            infos[name] = TensorInfo(np.shape(values), dtype)
        header = build_header(infos, metadata)

        def pieces():
            yield header
            for array in data:
                for start in range(0, array.size, BLOCK):
                    yield array[start : start + BLOCK].tobytes()

        stage = Stage(self._place)
        try:
            write_outputs([Output(self._place.name, pieces)], stage.folder, workers=1)
            stage.publish(stage.folder / self._place.name)
        except OutputError as error:
            if stage.made is None or not error.where.startswith(str(stage.made)):
                raise
            # The temporary directory is gone when the message is read.
            raise OutputError(error.what, where=str(self._destination), remedy=error.remedy) from error
        finally:
            stage.discard()
        return self._destination
