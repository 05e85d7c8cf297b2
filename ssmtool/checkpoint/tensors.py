"""What a checkpoint's header says of one tensor."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod


@dataclass(frozen=True)
class TensorInfo:
    """Shape and storage type of one tensor.

    Attributes:
        shape: as stored.
        dtype: safetensors spelling: F64 F32 F16 BF16 C64 C128 I64 I32 I16 I8 U64 U32 U16 U8 BOOL (others pass
            through the tool as bytes but cannot be read as numbers).
    """

    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)
