"""One safetensors file: the header is read once, the data in pieces when asked for."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from ssmtool.checkpoint.files import blocks, regular_size, stamp
from ssmtool.checkpoint.header import AGAIN, LIMIT, parse_header
from ssmtool.checkpoint.sniff import foreign, is_pickle, is_safetensors
from ssmtool.errors import CheckpointError


class SafetensorsFile:
    """A `WeightsFile` in safetensors format.

    Args:
        path: of the file.

    Raises:
        CheckpointError: not a safetensors file, truncated, or with a header the format does not allow.
    """

    def __init__(self, path: Path) -> None:
        size = regular_size(path)
        self.stamp = stamp(path)
        if not is_safetensors(path):
            raise _refusal(path, size)
        (length,) = struct.unpack("<Q", b"".join(blocks(path, 0, 8)))
        if length > LIMIT:
            raise CheckpointError(
                f"header has {length} bytes, more than the {LIMIT} allowed", where=str(path), remedy=AGAIN
            )
        header = parse_header(b"".join(blocks(path, 8, length)), file_size=size, where=str(path))
        self.path = path
        self.tensors = {name: span.info for name, span in header.spans.items()}
        self.metadata = header.metadata
        self.extras: tuple[str, ...] = ()
        self._spans = header.spans
        self._data_start = header.data_start

    def chunks(self, name: str) -> Iterator[bytes]:
        """The tensor's bytes in pieces of at most 1 MiB. Raises CheckpointError if the file changed since."""
        span = self._spans[name]
        return blocks(self.path, self._data_start + span.begin, span.end - span.begin, self.stamp)


def _refusal(path: Path, size: int) -> CheckpointError:
    """Why a file that does not start like safetensors is none."""
    if verdict := foreign(path):
        return CheckpointError(verdict[0], where=str(path), remedy=verdict[1])
    if is_pickle(path):
        return CheckpointError(
            "is a PyTorch pickle, not safetensors", where=str(path), remedy=f"Rename it to {path.stem}.pt"
        )
    if size < 8:
        return CheckpointError(f"has {size} bytes, too few for safetensors", where=str(path), remedy=AGAIN)
    head = b"".join(blocks(path, 0, min(9, size)))
    (length,) = struct.unpack("<Q", head[:8])
    if head[8:] not in (b"", b"{"):
        return CheckpointError(
            "is not a safetensors file", where=str(path), remedy="Give a .safetensors file or a PyTorch checkpoint"
        )
    return CheckpointError(f"header claims {length} bytes in a file of {size}", where=str(path), remedy=AGAIN)
