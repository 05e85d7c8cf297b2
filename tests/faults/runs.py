"""Runs of the program that a test starts, kills, starves of disk, and looks at afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Outcome:
    """Exit code (negative: the signal that ended it), both streams, and seconds."""

    code: int
    out: str
    err: str
    seconds: float


class Server:
    """The process that forks the others."""

    def __init__(self) -> None:
        places = os.pathsep.join(map(str, (ROOT, ROOT / "kernels")))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
            text=True,
            bufsize=1,
        )

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def start(self, args: list[str], folder: Path, *, umask: int = 0o022, largest: int | None = None) -> Started:
        """Start a command line in a folder, beside which its output is written."""
        log = folder.parent / f"log-{time.monotonic_ns()}"
        asked = {"start": args, "cwd": str(folder), "log": str(log), "umask": umask, "largest": largest}
        return Started(self, int(self.ask(asked)), log)

    def run(self, args: list[str], folder: Path, *, umask: int = 0o022, largest: int | None = None) -> Outcome:
        """Run one to its end."""
        return self.start(args, folder, umask=umask, largest=largest).wait()

    def ask(self, request: dict) -> str:
        """One line for one line."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        return self._process.stdout.readline()


class Started:
    """A run that goes on."""

    def __init__(self, server: Server, process: int, log: Path) -> None:
        self.process, self._server, self._log, self._begun = process, server, log, time.monotonic()

    def kill(self) -> None:
        """SIGKILL: nothing of the run gets to clear up."""
        os.kill(self.process, signal.SIGKILL)  # until it is waited for, its number is its own

    def wait(self) -> Outcome:
        """Its end."""
        code = int(self._server.ask({"wait": self.process}))
        seconds = time.monotonic() - self._begun
        texts = []
        for suffix in (".out", ".err"):
            file = self._log.with_name(self._log.name + suffix)
            texts.append(file.read_text() if file.exists() else "")
            file.unlink(missing_ok=True)
        return Outcome(code, texts[0], texts[1], seconds)


def kill_at_random(server: Server, args: list[str], folder: Path, duration: float, chance: random.Random) -> Outcome:
    """Start a run and kill it: in one half of all cases at any moment of the time it takes, in the other shortly after
    something new lies in the folder, since writing is but a small part of that time."""
    writing, share, pause = chance.random() < 0.5, chance.random(), chance.random() ** 3 * 0.1
    before = set(folder.iterdir())
    started = server.start(args, folder)
    end = time.monotonic() + (duration * share if not writing else duration)
    while time.monotonic() < end and not (writing and set(folder.iterdir()) - before):
        time.sleep(0.0005)
    if writing:
        time.sleep(pause)
    started.kill()
    return started.wait()


def files(folder: Path, *, leaving: tuple[str, ...] = ()) -> dict[str, str]:
    """Digest of every file below a folder, but for what begins with one of `leaving`."""
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
        if not (name := path.relative_to(folder).as_posix()).startswith(leaving or ("\0",))
    }
