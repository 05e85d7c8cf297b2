"""What a block inside a running model is called with and returns, kept for all sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ssmtool.pipeline.live import stream


@dataclass(frozen=True)
class _PerSequence:
    """A tensor with one entry per sequence."""

    all: Tensor


@dataclass(frozen=True)
class Calls:
    """The arguments of one block on K sequences, and the tensor it returned.

    Attributes:
        args, named: positional and keyword arguments; what has one entry per sequence is marked.
        output: (K, ...).
    """

    args: tuple[Any, ...]
    named: dict[str, Any]
    output: Tensor

    def at(self, chosen: Tensor | slice) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments for the sequences at `chosen`."""

        def one(value: Any) -> Any:
            if isinstance(value, _PerSequence):
                return value.all[chosen]
            return type(value)(map(one, value)) if type(value) in (tuple, list) else value

        return tuple(map(one, self.args)), {key: one(value) for key, value in self.named.items()}


class _Reached(Exception):
    """The block that was asked for has been called; the rest of the model need not run."""


@torch.no_grad()
def captured(model: nn.Module, block: str, data: Tensor, batch: int) -> Calls:
    """Run the model on all sequences as far as one block.

    Args:
        model: in evaluation mode.
        block: its name in the model.
        data: (K, L, ...) inputs of the model.
        batch: sequences at a time.
    """
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    results: list[Tensor] = []

    def hook(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any], out: Any) -> None:
        found = stream(out)
        assert found is not None
        seen.append((args, named))
        results.append(found)
        raise _Reached

    # The first sequence goes alone: what has one entry per sequence is told from what happens to be as long as a batch.
    parts = [part for part in (data[:1], *data[1:].split(batch)) if len(part)]
    handle = model.get_submodule(block).register_forward_hook(hook, with_kwargs=True)
    try:
        for part in parts:
            try:
                model(part)
            except _Reached:
                continue
    finally:
        handle.remove()
    sizes = [len(part) for part in parts]
    args = tuple(_joined([call[0][i] for call in seen], sizes) for i in range(len(seen[0][0])))
    named = {key: _joined([call[1][key] for call in seen], sizes) for key in seen[0][1]}
    return Calls(args, named, torch.cat(results))


def _joined(values: Sequence[Any], sizes: Sequence[int]) -> Any:
    """One value for all batches: tensors with one entry per sequence side by side, anything else as it came first."""
    if all(isinstance(v, Tensor) and v.ndim and len(v) == n for v, n in zip(values, sizes, strict=True)):
        return _PerSequence(torch.cat(list(values)))
    if type(values[0]) in (tuple, list):
        return type(values[0])(_joined(part, sizes) for part in zip(*values, strict=True))
    return values[0]
