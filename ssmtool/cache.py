"""Results kept by content: a folder of entries named after the hash of everything they depend on.

An entry is looked up by what went into a computation, so it is never stale: other bytes, other options or another
version of the computation are another key. Whatever is wrong with an entry or with the folder, the answer is "not
known": results are computed again, nothing fails. Nothing in an entry is executed or unpickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import secrets
import stat
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

MAGIC = b"ssmtool result 1\n"
"""Starts every entry; the number is the version of the format."""

T = TypeVar("T")

_DTYPE = re.compile(r"\|b1|\|[iu]1|<[iu][248]|<f[248]|<c(8|16)")
_KEY = re.compile(r"[0-9a-f]{64}")
_SCRATCH = ".new"
_ABANDONED = 3600.0  # seconds after which a file half written belongs to a process that died; writing one takes seconds


class Cache:
    """A folder of results, which processes and users may share and anybody may delete at any time.

    Args:
        folder: entries lie in its subfolder "results"; it need not exist. None keeps nothing.
    """

    def __init__(self, folder: str | os.PathLike[str] | None) -> None:
        self.folder = None if folder is None else Path(folder) / "results"
        self._swept = False

    @classmethod
    def default(cls) -> Cache:
        """The user's: $SSMTOOL_CACHE, else $XDG_CACHE_HOME/ssmtool, else ~/.cache/ssmtool."""
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        folder = os.environ.get("SSMTOOL_CACHE") or os.path.join(home, "ssmtool")
        return cls(None if folder.startswith("~") else folder)  # a user without a home

    def get(self, key: str) -> dict[str, np.ndarray] | None:
        """The arrays kept under a key of `digest`; None if there are none, or none that can be read and are whole."""
        path = self._path(key)
        data = None if path is None else _content(path)
        return None if data is None else _decoded(data, key)

    @property
    def keeps(self) -> bool:
        """Whether anything is kept at all; where not, nobody need make a key."""
        return self.folder is not None

    def recall(self, key: str, read: Callable[[dict[str, np.ndarray]], T]) -> T | None:
        """What `read` makes of the arrays under a key; None without any.

        An entry is what its key says only if nobody else wrote it: what `read` refuses with KeyError, ValueError,
        TypeError or OverflowError is as good as none.
        """
        arrays = self.get(key)
        try:
            return None if arrays is None else read(arrays)
        except (KeyError, ValueError, TypeError, OverflowError):
            return None

    def put(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep arrays under a key, at once or not at all; a folder that cannot be written keeps nothing.

        Raises:
            TypeError: an array that holds something else than numbers.
        """
        path, pieces = self._path(key), list(_encoded(key, arrays))
        if path is None:
            return
        scratch = path.with_name(f"{key[:16]}-{secrets.token_hex(8)}{_SCRATCH}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._sweep(path.parent)
            _write(scratch, pieces)
            # Not flushed to disk: an entry that a power cut leaves half written fails its checksum.
            os.replace(scratch, path)
        except OSError:
            pass
        except BaseException:  # interrupted
            _remove(scratch)
            raise
        else:
            return
        _remove(scratch)

    def _path(self, key: str) -> Path | None:
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is no key of digest()")
        return None if self.folder is None else self.folder / key

    def _sweep(self, folder: Path) -> None:
        """Remove what killed processes left half written."""
        if self._swept:
            return
        self._swept = True
        before = time.time() - _ABANDONED
        with os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if entry.name.endswith(_SCRATCH) and entry.stat(follow_symlinks=False).st_mtime < before:
                        os.unlink(entry.path)


def digest(computation: str, version: int, *parts: Any) -> str:
    """Key of a result: SHA-256 of what it depends on, 64 hexadecimal digits.

    Args:
        computation: its name.
        version: of its mathematics; another number is another key.
        parts: str, int, float, bool, None, bytes, NumPy arrays and scalars, and tuples, lists and mappings of those.
            Values of different types, and arrays of different dtypes or shapes, are different; the order of a mapping
            is not.

    Raises:
        TypeError: a part of another type.
    """
    total = hashlib.sha256()
    for piece in _canonical((computation, version, *parts)):
        total.update(piece)
    return total.hexdigest()


def _canonical(part: Any) -> Iterator[bytes | memoryview]:
    """Bytes from which the part could be read back: a type, a length, the content."""
    if isinstance(part, np.generic):
        part = part.item()
    if part is None or isinstance(part, bool):
        yield {None: b"N", True: b"T", False: b"F"}[part]
    elif isinstance(part, int):
        yield from _sized(b"i", str(part).encode())
    elif isinstance(part, float):
        yield b"f" + struct.pack("<d", part)
    elif isinstance(part, str):
        yield from _sized(b"s", part.encode("utf-8", "surrogatepass"))
    elif isinstance(part, bytes):
        yield from _sized(b"b", part)
    elif isinstance(part, np.ndarray):
        array = _portable(part)
        yield from _sized(b"a", f"{array.dtype.str}{array.shape}".encode())
        yield array.reshape(-1).view(np.uint8).data
    elif isinstance(part, tuple | list):
        yield b"(" + struct.pack("<Q", len(part))
        for item in part:
            yield from _canonical(item)
    elif isinstance(part, Mapping):
        pairs = sorted(((b"".join(_canonical(key)), value) for key, value in part.items()), key=lambda pair: pair[0])
        yield b"{" + struct.pack("<Q", len(pairs))
        for key, value in pairs:
            yield key
            yield from _canonical(value)
    else:
        raise TypeError(f"a {type(part).__name__} has no digest")


def _sized(kind: bytes, content: bytes) -> Iterator[bytes]:
    yield kind + struct.pack("<Q", len(content))
    yield content


def _portable(array: np.ndarray) -> np.ndarray:
    """The array row-major and little-endian. Raises TypeError for anything but numbers."""
    plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(array.shape)
    if not _DTYPE.fullmatch(plain.dtype.str):
        raise TypeError(f"an array of {array.dtype} cannot be kept")
    return plain


def _encoded(key: str, arrays: Mapping[str, np.ndarray]) -> Iterator[bytes | memoryview]:
    """The bytes of an entry: magic, SHA-256 of the rest, length of the header, header as JSON, arrays one by one."""
    plain = {name: _portable(np.asarray(array)) for name, array in arrays.items()}
    listed = [[name, array.dtype.str, list(array.shape)] for name, array in plain.items()]
    header = json.dumps({"key": key, "arrays": listed}).encode()
    rest: list[bytes | memoryview] = [struct.pack("<Q", len(header)), header]
    rest += [array.reshape(-1).view(np.uint8).data for array in plain.values()]
    check = hashlib.sha256()
    for piece in rest:
        check.update(piece)
    yield MAGIC + check.digest()
    yield from rest


def _decoded(data: bytes, key: str) -> dict[str, np.ndarray] | None:
    """The arrays of an entry, or None: another format, damaged, cut short, or under a name that is not its own."""
    view, start = memoryview(data), len(MAGIC) + 32
    if data[: len(MAGIC)] != MAGIC or hashlib.sha256(view[start:]).digest() != data[len(MAGIC) : start]:
        return None
    try:
        (length,) = struct.unpack_from("<Q", data, start)
        header = json.loads(data[start + 8 : start + 8 + length])
        position, arrays = start + 8 + length, {}
        for name, dtype, shape in header["arrays"]:
            if not _DTYPE.fullmatch(dtype) or min(shape, default=0) < 0:
                return None
            arrays[name] = np.frombuffer(view, dtype, math.prod(shape), position).reshape(shape).copy()
            position += arrays[name].nbytes
        return arrays if header["key"] == key and position == len(data) else None
    except (ValueError, KeyError, TypeError, OverflowError, struct.error, RecursionError):
        return None  # the checksum holds: written by somebody else in no format of ours


def _content(path: Path) -> bytes | None:
    """A regular file's bytes, or None. Pipes are not waited for."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError:
        return None
    try:
        with open(handle, "rb", buffering=0, closefd=False) as file:
            return file.read() if stat.S_ISREG(os.fstat(handle).st_mode) else None
    except (OSError, MemoryError):
        return None
    finally:
        os.close(handle)


def _write(path: Path, pieces: Sequence[bytes | memoryview]) -> None:
    """A new file with the user's own permissions."""
    with open(path, "xb", buffering=0) as file:
        for piece in pieces:
            view = memoryview(piece)
            while view:
                view = view[file.write(view) :]


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
