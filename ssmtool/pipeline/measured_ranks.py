"""The errors of balanced truncation at some ranks, measured on what would be stored. Nothing is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ssmtool.cache import Cache
from ssmtool.errors import SsmtoolError
from ssmtool.families._contract import Layer
from ssmtool.lti.devices import device_name
from ssmtool.pipeline.compression import LayerReduction
from ssmtool.pipeline.engines import local
from ssmtool.pipeline.layerwise import layerwise
from ssmtool.pipeline.methods import How
from ssmtool.pipeline.model import LayerProgress, Model
from ssmtool.pipeline.reduction_work import ReductionWork, layout
from ssmtool.reductions._contract import Target


@dataclass(frozen=True)
class Measured:
    """Balanced truncation of one layer to a rank, relative to the Hankel norm.

    Attributes:
        rank: states per system; the layer's order where that is smaller.
        error: largest H-infinity error of a system.
        bound: largest certified bound.
        slots: stored modes it takes.
    """

    rank: int
    error: float
    bound: float
    slots: int


def measured_ranks(
    model: Model,
    layers: Sequence[Layer],
    ranks: Sequence[int],
    *,
    device: str = "auto",
    cache: Cache | None = None,
    jobs: int = 1,
    progress: LayerProgress | None = None,
) -> dict[str, tuple[tuple[Measured, ...], tuple[str, ...]]]:
    """Layer name -> (one result per rank, ascending; what could not be measured and why).

    The layers are reduced as `compress` does, and found again in the same cache.

    Args:
        layers: linear time-invariant ones.
        device, cache, jobs, progress: as in `Model.hsv`.
    """
    place, form = device_name(device), layout(model)
    found: dict[str, dict[int, Measured]] = {layer.name: {} for layer in layers}
    remarks: dict[str, list[str]] = {layer.name: [] for layer in layers}

    def reduced(some: Sequence[Layer], rank: int, workers: int) -> list[LayerReduction]:
        works = [ReductionWork(Target("rank", min(rank, x.order)), How(), None, place, form) for x in some]
        kept = cache or Cache(None)
        done = layerwise(model, some, works.__getitem__, cache=kept, engine=local(workers), progress=progress)
        return [row for row, _ in done]

    for rank in sorted(set(ranks)):
        try:
            rows = reduced(layers, rank, jobs)
        except SsmtoolError:  # of one of them: the others stand
            rows = []
            for layer in layers:
                try:
                    rows += reduced([layer], rank, 1)
                except SsmtoolError as reason:
                    remarks[layer.name].append(f"Rank {rank} was not measured: {reason.what}.")
        for row in rows:
            kept_states = min(rank, row.layer.order)
            measured = Measured(kept_states, row.hinf_relative, row.bound_relative, row.slots)
            found[row.layer.name][kept_states] = measured
    return {name: (tuple(found[name].values()), tuple(remarks[name])) for name in found}
