"""NumPy's array files, read without trusting what they say of themselves.

`numpy.load` allocates what a header claims before it looks for the data, hands on whatever its parser of Python
literals raises, and opens pipes and archives where an array was asked for. Here the header is held against the size of
the file first, and everything that is wrong is one error.
"""

from __future__ import annotations

import contextlib
import io
import lzma
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from ssmtool.checkpoint.documents import clip
from ssmtool.checkpoint.files import reading, regular_size
from ssmtool.errors import CheckpointError

PACKED = 1 << 30
"""Bytes an archive may unpack to, however small it is; beyond, a hundred times its own size: no data packs better."""

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}

# What numpy's parser and the zip library let through for one damaged byte or another.
_DAMAGE = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, SyntaxError, RecursionError,
    MemoryError, EOFError, NotImplementedError, RuntimeError, tokenize.TokenError, zipfile.BadZipFile,
    zipfile.LargeZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip


def read_array(path: Path, *, what: str, remedy: str) -> np.ndarray:
    """The array of a .npy file, of any dtype but objects.

    Args:
        path: of the file.
        what: it was to hold, for the message: "numbers", "tokens".
        remedy: for the message.

    Raises:
        CheckpointError: no such file, not a .npy file, damaged, or larger or smaller than its header says.
    """
    size = regular_size(path)
    with _refusing(path, what, remedy), open(path, "rb") as file:
        return _array(file, size)


def archive_names(path: Path, *, what: str, remedy: str) -> list[str]:
    """Names of the arrays in a .npz archive, for `read_member`. Raises CheckpointError as `read_array`."""
    size = regular_size(path)
    with _refusing(path, what, remedy), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        claimed = sum(member.file_size for member in members)
        if claimed > max(PACKED, 100 * size):
            raise ValueError(f"unpacks to {claimed} bytes")
        return list(dict.fromkeys(member.filename.removesuffix(".npy") for member in members))


def read_member(path: Path, name: str, *, what: str, remedy: str) -> np.ndarray:
    """The array `name` of a .npz archive. Raises CheckpointError as `read_array`."""
    with _refusing(path, what, remedy), zipfile.ZipFile(path) as archive:
        stored = name if name in archive.NameToInfo else f"{name}.npy"
        with archive.open(stored) as file:
            return _array(file, archive.getinfo(stored).file_size)


def _array(file: IO[bytes], size: int) -> np.ndarray:
    """The array in a stream of `size` bytes. Raises any of _DAMAGE."""
    version = npy.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"is of format version {version[0]}.{version[1]}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of literals that are damaged: they are refused or harmless
        shape, fortran, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not loaded")
    if any(length < 0 for length in shape):
        raise ValueError(f"its header claims the shape {shape}")
    claimed, left = prod(shape) * dtype.itemsize, size - file.tell()
    if claimed != left:
        raise ValueError(f"its header claims {claimed} bytes of data, and there are {left}")
    data = bytearray()
    while piece := file.read(min(1 << 20, claimed + 1 - len(data))):
        data += piece
    array = np.frombuffer(data, dtype).reshape(shape[::-1] if fortran else shape)
    return array.transpose() if fortran else array


@contextlib.contextmanager
def _refusing(path: Path, what: str, remedy: str) -> Iterator[None]:
    """Whatever the libraries raise for a damaged file, as one line."""
    with reading(path):
        try:
            yield
        except io.UnsupportedOperation as error:  # an OSError and a ValueError: of the content, not of the disk
            raise _unreadable(path, what, remedy, error) from error
        except _DAMAGE as error:
            raise _unreadable(path, what, remedy, error) from error


def _unreadable(path: Path, what: str, remedy: str, error: Exception) -> CheckpointError:
    text = str(error.args[0] if error.args else "").strip() or type(error).__name__
    shown = text if text.isprintable() and len(text) <= 120 else clip(text)
    return CheckpointError(f"cannot be read as {what}: {shown}", where=str(path), remedy=remedy)
