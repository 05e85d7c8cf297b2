"""Files that a user already has: where they may lie, how they are refused, and what of them is kept for validation."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ssmtool.checkpoint.files import read_small
from ssmtool.errors import DataError

LIMIT = 1 << 30  # bytes of one file, unpacked: more than any of these tasks has
VALIDATION_SHARE = 0.1
SPLIT_SEED = 0


def folder_with(data: Path, places: Iterable[str], wanted: str, files: str) -> Path:
    """The first of `places` below `data` that holds an entry `wanted`.

    Args:
        data: the user's folder.
        places: folders below it, "." for itself.
        wanted: name of a file or folder, or a pattern.
        files: all that is expected, in words.

    Raises:
        DataError: none of them does.
    """
    for place in places:
        if any((data / place).glob(wanted)):
            return data / place
    raise DataError(f"holds no {wanted}", where=str(data), remedy=f"Expected there: {files}")


def read_bytes(path: Path, files: str) -> bytes:
    """Content of a file, unpacked if its name ends in .gz. Raises DataError if it is missing or damaged."""
    try:
        if not path.exists():
            raise DataError("is missing", where=str(path), remedy=f"Expected: {files}")
        content = read_small(path, LIMIT)
        if path.suffix != ".gz":
            return content
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as packed:  # decompress() would take what it unpacks to
            content = packed.read(LIMIT + 1)
        if len(content) > LIMIT:
            raise DataError(f"unpacks to more than {LIMIT} bytes", where=str(path), remedy="Download it again")
        return content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot be read: {error}", where=str(path), remedy="Download it again") from error


def divided(part: str, count: int) -> np.ndarray:
    """Indices of the "train" or the "validation" part of `count` examples of a training file, a tenth of them.

    Shuffled once and for all by NumPy's RandomState, whose numbers never change.
    """
    order = np.random.RandomState(SPLIT_SEED).permutation(count)
    held_out = max(1, round(VALIDATION_SHARE * count))
    return np.sort(order[:held_out] if part == "validation" else order[held_out:])
