"""A single file written whole or not at all: beside its place first, flushed, then moved there."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ssmtool.checkpoint.files import sync, writing
from ssmtool.checkpoint.scratch import clear_left, hold, release, scratch
from ssmtool.errors import OutputError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to; what is at `path` is replaced at the end of the block, and stays as it is if that raises.

    The new file has the permissions a new file gets from the user's umask. Where `path` is a symbolic link, what it
    points to is replaced, and the link stays.

    Raises:
        OutputError: it cannot be written, or is something else than a file.
    """
    with writing(path):
        place = Path(os.path.realpath(path))
        if place.exists() and not stat.S_ISREG(place.stat().st_mode):
            raise OutputError("is not a regular file", where=str(path), remedy="Give the name of a file")
        clear_left(place)
        new = scratch(place)
        file = open(new, "xb")  # noqa: SIM115 - its name has to go, also where closing it fails
    held = None
    try:
        with writing(path):
            held = hold(new)
            yield file
            file.flush()
            os.fsync(file.fileno())
            file.close()
            os.replace(new, place)
        sync(place.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            file.close()
        new.unlink(missing_ok=True)
        raise
    finally:
        release(held)
