"""What the two kinds of weight files have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from ssmtool.checkpoint.files import Stamp
from ssmtool.checkpoint.tensors import TensorInfo


class WeightsFile(Protocol):
    """One file that holds named tensors.

    Attributes:
        path: of the file.
        stamp: what the file was when it was opened.
        tensors: in stored order.
        metadata: the file's own strings; empty for a pickle.
        extras: names of what the file holds beside the tensors (optimizer state, step counters); empty for safetensors.
    """

    @property
    def path(self) -> Path: ...
    @property
    def stamp(self) -> Stamp: ...
    @property
    def tensors(self) -> Mapping[str, TensorInfo]: ...
    @property
    def metadata(self) -> Mapping[str, str]: ...
    @property
    def extras(self) -> tuple[str, ...]: ...

    def chunks(self, name: str) -> Iterator[bytes]:
        """The tensor's bytes, little-endian and row-major, in pieces of at most 1 MiB. Raises CheckpointError."""
        ...
