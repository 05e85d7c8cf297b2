"""One layer after the other, in this process."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ssmtool.lti.devices import device_name
from ssmtool.pipeline.engines._contract import Results, Task, perform

if TYPE_CHECKING:
    from ssmtool.pipeline.model import LayerProgress, Model


class Here:
    """An `Engine` that needs nothing."""

    def device(self, asked: str) -> str:
        return device_name(asked)

    def run(self, model: Model, tasks: Iterable[tuple[int, Task]], progress: LayerProgress | None) -> Results:
        for number, task in tasks:
            step = None if progress is None else (lambda done, total, layer=task.layer: progress(layer, done, total))
            yield number, perform(model, task, step)
