"""Sequences on the time axis: a padded batch, or packed sequences of different lengths; and resets within them.

Kernels see one flat time axis (b L, ...) and `offsets` (k + 1,): sequence i is its part from offsets[i] to
offsets[i + 1]. A batch (b, L, ...) is the case of k = b equal parts. Initial and final states are (k, ...).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor


def offsets(batch: int, length: int, cu_seqlens: Tensor | None, device: torch.device) -> Tensor:
    """Bounds (k + 1,) int64 of the sequences on the flat time axis.

    Args:
        batch, length: of the inputs.
        cu_seqlens: (k + 1,) integers from 0 to L, not decreasing, for packed sequences in a batch of one; else None.
        device: of the result.

    Raises:
        ValueError: cu_seqlens is none of this.
    """
    if cu_seqlens is None:
        return torch.arange(batch + 1, dtype=torch.int64, device=device) * length
    if batch != 1:
        raise ValueError(f"cu_seqlens packs sequences along time in a batch of 1, and the batch is {batch}")
    if cu_seqlens.ndim != 1 or cu_seqlens.dtype not in (torch.int32, torch.int64) or len(cu_seqlens) < 1:
        raise ValueError(f"cu_seqlens is {cu_seqlens.dtype} of shape {tuple(cu_seqlens.shape)}: integers (k + 1,)")
    if torch.compiler.is_compiling():  # values are not known while a graph is traced
        return cu_seqlens.to(device, torch.int64)
    bounds = cu_seqlens.detach().to("cpu", torch.int64)
    if bounds[0] != 0 or bounds[-1] != length or bool((bounds.diff() < 0).any()):
        raise ValueError(f"cu_seqlens has to rise from 0 to L = {length} without falling")
    return bounds.to(device)


def resets_of(resets: Tensor | None, batch: int, length: int, device: torch.device) -> Tensor | None:
    """The mask as contiguous bool (b, L). Raises ValueError: another shape, dtype or device."""
    if resets is None:
        return None
    if tuple(resets.shape) != (batch, length) or resets.dtype != torch.bool or resets.device != device:
        raise ValueError(
            f"resets is {resets.dtype} {tuple(resets.shape)} on {resets.device}: "
            f"bool (b, L) = {(batch, length)} on {device} is needed"
        )
    return resets.contiguous()


def each_sequence(
    scan: Callable[..., tuple[Tensor, Tensor]],
    along_time: Sequence[Tensor | None],
    state: Tensor | None,
    cu_seqlens: Tensor,
) -> tuple[Tensor, Tensor]:
    """Run a scan that knows batches only on packed sequences, one after the other.

    Args:
        scan: (tensors along time (1, l, ...), state (1, ...) or None) -> (outputs (1, l, ...), last state (1, ...)).
        along_time: (1, L, ...) each, or None.
        state: (k, ...) or None.
        cu_seqlens: (k + 1,).
    """
    bounds = offsets(1, next(t.shape[1] for t in along_time if t is not None), cu_seqlens, torch.device("cpu")).tolist()
    outputs, last = [], []
    for i, (start, stop) in enumerate(pairwise(bounds)):
        part = [None if t is None else t[:, start:stop] for t in along_time]
        y, h = scan(*part, None if state is None else state[i : i + 1])
        outputs.append(y)
        last.append(h)
    return torch.cat(outputs, dim=1), torch.cat(last, dim=0)
