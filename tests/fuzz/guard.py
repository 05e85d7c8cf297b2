"""What a reader may do with a hostile file: succeed, or raise one line of ours; and nothing on the side."""

from __future__ import annotations

import contextlib
import hashlib
import resource
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ssmtool.errors import SsmtoolError

SECONDS = 15.0
"""Of one input, after which it counts as a hang: a hundred times what most take."""

MEMORY = 1 << 30
"""Bytes of address space beyond what the process has: stacks and arenas of threads take most of it, files a few KiB."""

_WRITES = ("w", "a", "x", "+")
_FORBIDDEN = (
    "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile", "subprocess.Popen",
    "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown",
    "shutil.rmtree", "shutil.move", "shutil.copyfile", "tempfile.mkstemp", "tempfile.mkdtemp",
    "socket.connect", "socket.bind", "socket.getaddrinfo", "socket.__new__", "urllib.Request",
)  # fmt: skip


class Hang(BaseException):
    """Not an Exception, so that no `except Exception` of a reader swallows it."""


class SideEffect(BaseException):
    """A file written, a process or a socket opened."""


class _Watch:
    """An audit hook cannot be removed: this one is installed once and asleep outside of `watched`."""

    def __init__(self) -> None:
        self.awake = self.installed = False
        self.seen: list[str] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.awake:
            return
        if event == "open":
            path, mode, flags = arguments
            # open() says its mode; os.open() says none, but its flags
            if any(c in mode for c in _WRITES) if isinstance(mode, str) else flags & 3:
                self._found(f"{path} opened for writing")
        elif event in _FORBIDDEN:
            self._found(f"{event}{arguments!r}"[:300])

    def _found(self, what: str) -> None:
        self.seen.append(what)
        raise SideEffect(what)


_WATCH = _Watch()


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Raises SideEffect at the first file opened for writing, process started, or socket made."""
    if not _WATCH.installed:
        sys.addaudithook(_WATCH)
        _WATCH.installed = True
    _WATCH.seen.clear()
    _WATCH.awake = True
    try:
        yield
    finally:
        _WATCH.awake = False
    if _WATCH.seen:  # also where a reader swallowed it
        raise SideEffect(_WATCH.seen[0])


@contextlib.contextmanager
def limited(seconds: float = SECONDS, memory: int = MEMORY) -> Iterator[None]:
    """Raises Hang after `seconds`; allocations beyond `memory` more bytes of address space fail."""

    def late(*_: object) -> None:
        raise Hang(f"not done after {seconds:g} s")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = signal.signal(signal.SIGALRM, late)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory, hard))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, before)


def contents(folder: Path) -> dict[str, str]:
    """Digest of every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in folder.rglob("*")
    }


def refused_or_read(call: Callable[[Path], Any], folder: Path) -> str:
    """Hold a reader to its promise.

    Returns:
        the line of its refusal, "" if it read the file.
    """
    before, refusal = contents(folder), None
    with watched(), limited(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numbers that overflow on the way to a refusal
        try:
            call(folder)
        except SsmtoolError as error:
            refusal = error
    assert contents(folder) == before, "a file was changed or left behind"
    if refusal is None:
        return ""
    line = refusal.line()
    assert refusal.exit_code == 2
    assert line
    assert "\n" not in line
    assert line.isprintable(), f"what a file says reaches the terminal unescaped: {line!r}"
    return line
