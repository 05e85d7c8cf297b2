"""Unfinished output, under a name of its own beside its place: how it is called, who holds it, when it is cleared.

A file or directory ``.<name>.ssmtool-<process id>-<random>`` belongs to a process that writes ``<name>``. A process
that is killed leaves it behind; the next one that writes ``<name>`` clears it away, if nobody holds it any more.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows: there nothing is held, and nothing is cleared
    fcntl = None


def scratch(place: Path) -> Path:
    """A new name beside `place`."""
    return place.with_name(f"{_prefix(place)}{os.getpid()}-{secrets.token_hex(4)}")


def hold(path: Path) -> int | None:
    """Hold a file or directory until the returned handle is closed, or the process ends in whatever way.

    Returns:
        the handle; None where the system or the disk has no such locks.

    Raises:
        BlockingIOError: another process holds it.
        OSError: it cannot be opened.
    """
    if fcntl is None:
        return None
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise
    except OSError:  # network disks without locks, or with locks on files open for writing only
        os.close(handle)
        return None
    return handle


def release(handle: int | None) -> None:
    """Let go of what `hold` returned."""
    if handle is not None:
        os.close(handle)


def clear_left(place: Path) -> None:
    """Remove what killed processes left of writing `place`: where the process is gone and nobody holds it.

    Both, because process ids mean nothing on another machine that shares the disk, and some disks have no locks. What
    cannot be removed stays: it is in nobody's way.
    """
    pattern = re.compile(re.escape(_prefix(place)) + r"(\d+)-\w+")
    with contextlib.suppress(OSError):
        for path in list(place.parent.iterdir()):
            found = pattern.fullmatch(path.name)
            if found and not path.is_symlink() and not _alive(int(found[1])):
                _clear(path)


def _clear(path: Path) -> None:
    with contextlib.suppress(OSError):  # held by another process, or not ours
        handle = hold(path)
        if handle is None:
            return
        try:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
        finally:
            release(handle)


def _prefix(place: Path) -> str:
    return f".{place.name}.ssmtool-"


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # of another user
        return True
    return True
