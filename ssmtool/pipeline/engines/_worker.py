"""The process that works on layers it is told: reads them itself, says what comes of it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
import warnings
from multiprocessing.connection import Connection, wait
from typing import Any

from ssmtool.lti import cores
from ssmtool.pipeline.engines._contract import perform

_EVERY = 0.1  # seconds between two steps that are reported


def serve(connection: Connection, path: str, share: int) -> None:
    """Work until nobody sends tasks any more. What is sent back is one of

        ("step", (done, total)), ("warning", (text, category)), ("done", arrays), ("failed", (error, traceback)).

    Args:
        path: of the checkpoint.
        share: cores to use.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from ssmtool.checkpoint import open_checkpoint
    from ssmtool.pipeline.model import Model

    cores.limit(share)
    lock = threading.Lock()

    def say(kind: str, content: Any) -> None:
        with lock, contextlib.suppress(OSError):
            connection.send((kind, content))

    def warned(message: Warning | str, category: type[Warning], *rest: object) -> None:
        say("warning", (str(message), category))

    warnings.showwarning = warned
    checkpoint = None
    while True:
        try:
            task, steps = connection.recv()
        except EOFError:
            return
        try:
            checkpoint = checkpoint or open_checkpoint(path)
            say("done", perform(Model(checkpoint, (task.layer,)), task, _steps(say) if steps else None))
        except BaseException as error:
            say("failed", (portable(error), traceback.format_exc()))


def _steps(say: Any) -> Any:
    """Reports of progress, not more than a few a second."""
    last = [time.monotonic()]

    def step(done: int, total: int) -> None:
        now = time.monotonic()
        if now - last[0] > _EVERY or done == total:
            last[0] = now
            say("step", (done, total))

    return step


class WorkerTraceback(Exception):
    """Where in a worker an error was raised; shown above the error's own place where tracebacks are shown."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def portable(error: BaseException) -> BaseException:
    """The error, if it can be sent and read again; else one that says the same."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


def _end_with_parent() -> None:
    """Whoever waits for this process may be killed, and cannot end it then."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
