"""What Triton kernels over trees share: the mask of ancestors."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def related_nodes(related, rows, columns, T):
    """M[rows, columns] as a mask, false outside of the tree."""
    inside = (rows < T) & (columns < T)
    return tl.load(related + rows * T + columns, mask=inside, other=0) != 0


def padded_size(size: int) -> int:
    """Nodes as kernels see them: products of matrices need at least 16."""
    return max(16, triton.next_power_of_2(size))


def as_bytes(related: Tensor) -> Tensor:
    """The mask as kernels read it."""
    return related.contiguous().view(torch.uint8)
