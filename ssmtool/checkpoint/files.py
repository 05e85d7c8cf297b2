"""Bytes to and from disk in bounded pieces; every OSError becomes one line that says what to do.

Files are read with plain reads, never mapped: mapped pages count as resident memory, and a file that shrinks while it
is mapped kills the process.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ssmtool.errors import CheckpointError, OutputError

BLOCK = 1 << 20
"""Piece size in bytes: large enough that system calls cost nothing, small enough to stay in the cache."""

_READ_REMEDY = {
    errno.EACCES: "Make the file readable for this user",
    errno.EPERM: "Make the file readable for this user",
    errno.EIO: "The disk or network share fails: copy the file elsewhere or download it again",
    errno.ENAMETOOLONG: "Use a shorter name",
    errno.ELOOP: "Remove the symbolic link that points to itself",
}
_WRITE_REMEDY = {
    errno.ENOSPC: "Free space on that disk or write elsewhere; nothing was left behind",
    errno.EDQUOT: "Your disk quota is used up: free space or write elsewhere; nothing was left behind",
    errno.EFBIG: "The file exceeds the size limit of this disk or shell (ulimit -f): raise it or write elsewhere",
    errno.EACCES: "Choose a destination this user may write to",
    errno.EPERM: "Choose a destination this user may write to",
    errno.EROFS: "That disk is read-only: write elsewhere",
    errno.ENAMETOOLONG: "Use a shorter name",
    errno.EIO: "The disk or network share fails: write elsewhere",
}


@contextmanager
def reading(where: str | Path) -> Iterator[None]:
    """Turn an OSError, or a path no system call accepts, into a CheckpointError about `where`."""
    try:
        yield
    except OSError as error:
        text = f"cannot be read: {error.strerror or error}"
        raise CheckpointError(text, where=str(where), remedy=_READ_REMEDY.get(error.errno or 0, "")) from error
    except ValueError as error:  # NUL or a lone surrogate in the name
        raise CheckpointError(f"is not a usable path: {error}", where=repr(str(where))) from error


@contextmanager
def writing(where: str | Path) -> Iterator[None]:
    """Turn an OSError, or a path no system call accepts, into an OutputError about `where`."""
    try:
        yield
    except OSError as error:
        text = f"cannot be written: {error.strerror or error}"
        raise OutputError(text, where=str(where), remedy=_WRITE_REMEDY.get(error.errno or 0, "")) from error
    except ValueError as error:
        raise OutputError(f"is not a usable path: {error}", where=repr(str(where))) from error


def regular_size(path: Path) -> int:
    """Size of a regular file in bytes. Raises CheckpointError for anything else: no pipe or device is ever opened."""
    with reading(path):
        status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError("is not a regular file", where=str(path), remedy="Give a file or a directory on disk")
    return status.st_size


@dataclass(frozen=True)
class Stamp:
    """What a file looked like when it was opened: size in bytes, and time of the last change in nanoseconds."""

    size: int
    modified: int


def stamp(path: Path) -> Stamp:
    """Of a file as it is now. Raises CheckpointError."""
    with reading(path):
        status = path.stat()
    return Stamp(status.st_size, status.st_mtime_ns)


def check_unchanged(path: Path, before: Stamp) -> None:
    """Raises CheckpointError if a file is not what it was when it was opened."""
    now = stamp(path)
    if now != before:
        size = f": it had {before.size} bytes and has {now.size}" if now.size != before.size else ""
        raise CheckpointError(
            f"changed while it was in use{size}", where=str(path), remedy="Run again when nothing writes to it"
        )


def blocks(path: Path, start: int = 0, length: int | None = None, expected: Stamp | None = None) -> Iterator[bytes]:
    """The bytes [start, start + length) of a file, or all from `start`, in pieces of at most BLOCK.

    Args:
        expected: what the file has to be before its first byte is read and after its last.

    Raises:
        CheckpointError: the file cannot be read, ends early, or is not what it was.
    """
    left = regular_size(path) - start if length is None else length
    if expected is not None:
        check_unchanged(path, expected)
    with reading(path):
        file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed below; a with-block would also wrap the consumer
    try:
        with reading(path):
            file.seek(start)
        while left > 0:
            with reading(path):
                piece = file.read(min(BLOCK, left))
            if not piece:
                raise CheckpointError(
                    f"ends {left} bytes early", where=str(path), remedy="It was cut short while in use: copy it again"
                )
            left -= len(piece)
            yield piece
        if expected is not None:
            check_unchanged(path, expected)
    finally:
        file.close()


def read_small(path: Path, limit: int = 100_000_000) -> bytes:
    """A whole file of at most `limit` bytes. Raises CheckpointError if it is larger or cannot be read."""
    size = regular_size(path)
    if size > limit:
        raise CheckpointError(f"has {size} bytes, more than the {limit} such a file may have", where=str(path))
    return b"".join(blocks(path))


def write_all(file: BinaryIO, data: bytes | memoryview) -> None:
    """Write every byte of `data` to an unbuffered file; a single write may accept fewer. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def write_file(path: Path, pieces: Iterator[bytes]) -> None:
    """Create `path` (it must not exist) from `pieces`. Raises OutputError; errors of the pieces pass through."""
    with writing(path):
        file = open(path, "xb", buffering=0)  # noqa: SIM115
    with file:
        for piece in pieces:
            with writing(path):
                write_all(file, piece)


def sync(path: Path) -> None:
    """Make a file's bytes, or a directory's entries, survive a power cut. Raises OutputError."""
    with writing(path):
        try:
            handle = os.open(path, os.O_RDONLY)
        except PermissionError:
            if path.is_dir():  # systems that cannot open directories need no sync of them
                return
            raise
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
