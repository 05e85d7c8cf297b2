"""One case of one target: its files written, read under watch, and removed."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from tests.fuzz.guard import refused_or_read
from tests.fuzz.targets import Case, Target, write_case

MEMORY = Path("/dev/shm")
"""Files of a few KiB, written and removed by the thousand: a disk would only wear."""


def held(target: Target, case: Case, *, watched: bool = True) -> str:
    """The line in which the reader refused it, "" if it was read; raises if anything else happened."""
    folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
    try:
        write_case(target, case, folder)
        if watched:
            return refused_or_read(target.call, folder)
        target.call(folder)
        return ""
    finally:
        shutil.rmtree(folder)


def undamaged(target: Target) -> None:
    """Every file as it should be is read: a reader that refuses everything would hold any promise."""
    for making in range(len(target.files())):
        held(target, (making, 0, []), watched=False)  # what is imported late is imported now, and writes its cache
        line = held(target, (making, 0, []))
        assert not line, line
