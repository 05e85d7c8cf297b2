"""Layers in processes of this machine, a layer in each at a time.

Processes are spawned, not forked: a fork copies locks that threads of PyTorch hold. They end with the run, however that
ends, and with the process that started them, even if that is killed.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from ssmtool.errors import EngineError
from ssmtool.lti.cores import available
from ssmtool.lti.devices import device_name
from ssmtool.pipeline.engines._contract import Results, Task
from ssmtool.pipeline.engines._worker import WorkerTraceback, serve

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from ssmtool.pipeline.model import LayerProgress, Model

_ATTEMPTS = 2  # a process that is killed once met an accident; twice, the layer is too large for this machine


class Processes:
    """An `Engine` of `jobs` processes."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs

    def device(self, asked: str) -> str:
        return device_name(asked)

    def run(self, model: Model, tasks: Iterable[tuple[int, Task]], progress: LayerProgress | None) -> Results:
        with _Pool(model, self.jobs, progress) as pool:
            yield from pool.run(iter(tasks))


class _Pool:
    """Processes that are started when there is a task for them."""

    def __init__(self, model: Model, jobs: int, progress: LayerProgress | None) -> None:
        self.path, self.jobs, self.progress = str(model.checkpoint.path.absolute()), jobs, progress
        self.processes: dict[Connection, BaseProcess] = {}
        self.busy: dict[Connection, tuple[int, Task, int]] = {}  # number, task, attempt
        self.failed: tuple[int, BaseException] | None = None

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self.processes.values():
            process.kill()
        for connection, process in self.processes.items():
            process.join()
            connection.close()

    def run(self, tasks: Iterator[tuple[int, Task]]) -> Results:
        more = True
        while True:
            while more and self.failed is None and len(self.busy) < self.jobs:
                more = self._take(tasks)
            if self.failed is not None:  # what comes later in order cannot change which error is the first
                late = [c for c, (number, _, _) in self.busy.items() if number > self.failed[0]]
                for connection in late:
                    self._end(connection)
            if not self.busy:
                break
            for connection in wait(list(self.busy)):
                assert isinstance(connection, Connection)
                yield from self._hear(connection)
        if self.failed is not None:
            raise self.failed[1]

    def _take(self, tasks: Iterator[tuple[int, Task]]) -> bool:
        """Give the next task to a process; False if there is none."""
        try:
            number, task = next(tasks)
        except StopIteration:
            return False
        except Exception as error:  # of a layer after all that are being worked on
            self._fail(sys.maxsize, error)
            return False
        self._give(number, task, 1)
        return True

    def _give(self, number: int, task: Task, attempt: int) -> None:
        idle = [connection for connection in self.processes if connection not in self.busy]
        connection = idle[0] if idle else self._start()
        self.busy[connection] = (number, task, attempt)
        with suppress(OSError):  # of one that has just been killed: heard as the end of what it says
            connection.send((task, self.progress is not None))

    def _start(self) -> Connection:
        context = multiprocessing.get_context("spawn")
        mine, its = context.Pipe()
        share = max(1, available() // self.jobs)
        process = context.Process(target=serve, args=(its, self.path, share), daemon=True)
        with _deaf_to_interruptions():
            process.start()
        its.close()
        self.processes[mine] = process
        return mine

    def _end(self, connection: Connection) -> int | None:
        """End a process; its exit code."""
        process = self.processes.pop(connection)
        process.kill()
        process.join()
        connection.close()
        del self.busy[connection]
        return process.exitcode

    def _hear(self, connection: Connection) -> Results:
        number, task, attempt = self.busy[connection]
        try:
            kind, content = connection.recv()
        except (EOFError, OSError):
            code = self._end(connection)
            if attempt < _ATTEMPTS:
                self._give(number, task, attempt + 1)
            else:
                self._fail(number, _ended(task, code))
            return
        if kind == "step":
            if self.progress is not None:
                self.progress(task.layer, *content)
        elif kind == "warning":
            warnings.warn(content[0], content[1], stacklevel=2)
        else:
            del self.busy[connection]
            if kind == "done":
                yield number, content
            else:
                error, error.__cause__ = content[0], WorkerTraceback(content[1])
                self._fail(number, error)

    def _fail(self, number: int, error: BaseException) -> None:
        if self.failed is None or number < self.failed[0]:
            self.failed = (number, error)


def _ended(task: Task, code: int | None) -> EngineError:
    """Of a layer whose processes do not live to say what became of it."""
    if code is not None and code < 0:
        return EngineError(
            f"processes that worked on it were killed, twice (signal {-code})",
            where=task.layer.name,
            remedy="Memory may have run out: use fewer --jobs",
        )
    return EngineError(
        f"processes that were to work on it ended, twice (exit code {code})",
        where=task.layer.name,
        remedy="What they said is above; a script that asks for jobs needs: if __name__ == '__main__'",
    )


@contextmanager
def _deaf_to_interruptions() -> Iterator[None]:
    """What is started here never hears Ctrl-C: who started it does, and ends it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before: Any = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
