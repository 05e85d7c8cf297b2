"""The same work on many layers: known results from a cache, the others from an engine, every new one kept at once.

A run that is killed has kept every layer it finished; the next one goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

from ssmtool.cache import Cache
from ssmtool.families._contract import Layer
from ssmtool.pipeline.engines._contract import Engine, Task, Work

if TYPE_CHECKING:
    from ssmtool.pipeline.model import LayerProgress, Model


def layerwise(
    model: Model,
    layers: Sequence[Layer],
    work: Callable[[int], Work],
    *,
    cache: Cache,
    engine: Engine,
    progress: LayerProgress | None = None,
) -> list[Any]:
    """Results of all layers, in order; they depend neither on the cache nor on the engine.

    Args:
        work: what to do with the layer of this number; asked for when its turn comes, so that what it carries is not
            in memory for all layers at once.
        engine: where.
        progress: called with (layer, systems done, systems).

    Raises:
        SsmtoolError: of the first layer, in order, that fails.
    """
    results: list[Any] = [None] * len(layers)
    given: dict[int, Task] = {}

    def unknown() -> Iterator[tuple[int, Task]]:
        for number, layer in enumerate(layers):
            task = Task(layer, work(number), model.content(layer))
            result = cache.recall(task.work.key(task.content), partial(task.work.result, layer))
            if result is None:
                given[number] = task
                yield number, task
                continue
            results[number] = result
            if progress is not None:
                progress(layer, layer.systems, layer.systems)

    with closing(engine.run(model, unknown(), progress)) as found:
        for number, arrays in found:
            task = given.pop(number)
            cache.put(task.work.key(task.content), arrays)
            results[number] = task.work.result(task.layer, arrays)
    return results
