"""What an engine is given, and what it does with it wherever it runs.

A task is one layer. It names a checkpoint's layer, not its tensors: they are read where the work is done.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ssmtool.errors import CheckpointError
from ssmtool.families._contract import Layer
from ssmtool.pipeline.content import content_of

if TYPE_CHECKING:
    from ssmtool.pipeline.model import LayerProgress, Model

Arrays = dict[str, np.ndarray]
Step = Callable[[int, int], None]
Results = Generator[tuple[int, Arrays], None, None]


class Work(Protocol):
    """A deterministic computation on one layer; small enough to be sent, and picklable."""

    def key(self, content: str) -> str:
        """Of the result in a cache, for a layer with this hash."""
        ...

    def compute(self, model: Model, layer: Layer, step: Step | None) -> Arrays:
        """The result as arrays; step is called with (systems done, systems)."""
        ...

    def result(self, layer: Layer, arrays: Arrays) -> Any:
        """What the arrays say. Raises KeyError, ValueError, TypeError: they are no result of this work."""
        ...


@dataclass(frozen=True)
class Task:
    """A layer, what to do with it, and the hash its tensors must have where they are read."""

    layer: Layer
    work: Work
    content: str


class Engine(Protocol):
    """Works on layers."""

    def device(self, asked: str) -> str:
        """The device that works are to name, for "auto", "cpu" or a device of PyTorch. Raises UsageError."""
        ...

    def run(self, model: Model, tasks: Iterable[tuple[int, Task]], progress: LayerProgress | None) -> Results:
        """Results as they come, each with the number of its task.

        Tasks are taken one by one, in order, when there is room for one more. If several fail, the error of the first
        in order is raised, whatever finished first; everything that was begun before it is handed out. Closing the
        results ends all work.
        """
        ...


def perform(model: Model, task: Task, step: Step | None = None) -> Arrays:
    """The result of a task, with its layer's tensors read from `model`.

    Raises:
        CheckpointError: the tensors are not those the task was made for.
        SsmtoolError: whatever the work refuses.
    """
    with one_thread():
        arrays = task.work.compute(model, task.layer, step)
    if content_of(model.checkpoint, task.layer) != task.content:
        raise CheckpointError(
            f"layer {task.layer.name} changed while it was in use",
            where=str(model.checkpoint.path),
            remedy="Something writes to it, or a worker sees another file under this path: run it again when it is at "
            "rest",
        )
    return arrays


@contextmanager
def one_thread() -> Iterator[None]:
    """Libraries of linear algebra use one thread: their sums are added in an order that depends on how many they use.

    What uses more cores is `lti.factors.parallel` inside a layer, and engines across layers.
    """
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)
