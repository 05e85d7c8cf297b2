"""What a model carries from token to token, taken apart and put together along the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ssmtool.pipeline.generate import Memories
from ssmtool.selective.forward import Memory


def rows_of(memories: Memories, rows: Tensor) -> Memories:
    """Those of these sequences (n,) int64, in this order; one may be taken several times."""

    def take(memory: Memory) -> Memory:
        tail = None if memory.tail is None else memory.tail.index_select(0, rows)
        return Memory(tail, memory.h.index_select(0, rows))

    return _mapped(memories, take)


def joined(parts: Sequence[Memories]) -> Memories:
    """All sequences of several batches, in their order."""
    if len(parts) == 1:
        return parts[0]

    def join(memories: list[Memory]) -> Memory:
        tails = [memory.tail for memory in memories if memory.tail is not None]
        return Memory(torch.cat(tails) if tails else None, torch.cat([memory.h for memory in memories]))

    return {
        name: tuple(join([part[name][i] for part in parts]) for i in range(len(first)))
        for name, first in parts[0].items()
    }


def replaced_rows(memories: Memories, rows: Tensor, new: Memories) -> Memories:
    """The same with the sequences `rows` (n,) taken from `new`, a batch of n."""
    place = torch.arange(_batch(memories), device=rows.device)
    place[rows] = _batch(memories) + torch.arange(len(rows), device=rows.device)
    return rows_of(joined([memories, new]), place)


def _batch(memories: Memories) -> int:
    return next(iter(memories.values()))[0].h.shape[0]


def _mapped(memories: Memories, change: Callable[[Memory], Memory]) -> Memories:
    return {name: tuple(map(change, parts)) for name, parts in memories.items()}
