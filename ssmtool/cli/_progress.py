"""A progress bar on standard error, for people only."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from ssmtool.shown import printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from ssmtool.families._contract import Layer

PATIENCE = 1.0  # seconds; what is done sooner needs no bar


class Bar:
    """Shows what is being worked on, if standard error is a terminal and the work takes over a second.

    Args:
        quiet: never show anything.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._wanted = not quiet and sys.stderr.isatty()
        self._start = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def layer(self, layer: Layer, done: int, total: int) -> None:
        """A layer's systems, as the pipeline reports them."""
        self.step(layer.name, done, total, "systems")

    def step(self, label: str, done: int, total: int, unit: str) -> None:
        """`done` of `total` units of what `label` names."""
        if not self._wanted or time.monotonic() - self._start < PATIENCE:
            return
        label = printable(label)
        if self._bar is None:
            self._bar = _bar()
            self._bar.start()
            self._task = self._bar.add_task(label, total=total, unit=unit)
        assert self._task is not None
        self._bar.update(self._task, description=label, completed=done, total=total, unit=unit)


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[unit]}"))
    console = Console(stderr=True, markup=False, highlight=False, emoji=False)
    return Progress(*columns, TimeElapsedColumn(), console=console, transient=True)
