"""Mixers over a tree of tokens: every node reads what its ancestors left, and the memory follows one path of them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ssmtool.selective.forward import Memory
from ssmtool.selective.mixers import Mixer
from ssmtool_kernels.tree import (
    Tree,
    replay_convolution,
    replay_selective,
    replay_ssd,
    tree_convolution,
    tree_selective_scan,
    tree_ssd,
)


class Branches:
    """The order of one mixer's call in which step i follows its parent in a tree.

    `forward` returns the memory before the tree; `memory` afterwards gives the one after any node. No state of a node
    is kept: the states along a path are computed again from the inputs of the scan.

    Args:
        tree: T nodes on the device of the activations.
    """

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self._convolved: tuple[Tensor, Tensor] | None = None
        self._scanned: tuple[Tensor, ...] = ()

    def convolve(self, x: Tensor, mixer: Mixer, tail: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(b, T, channels) through the mixer's convolution along ancestors, and SiLU."""
        if mixer.conv is None:
            return F.silu(x), None
        taps = mixer.conv.shape[-1]
        tail = x.new_zeros(x.shape[0], taps - 1, x.shape[2]) if tail is None else tail
        self._convolved = x, tail
        return F.silu(tree_convolution(x, mixer.conv, mixer.conv_bias, tail, tree=self.tree)), tail

    def diagonal(
        self, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h0: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """A Mamba-1 scan; the state returned is the incoming one."""
        h0 = x.new_zeros(x.shape[0], *A.shape) if h0 is None else h0
        self._scanned = x, dt, A, B, h0
        return tree_selective_scan(x, dt, A, B, C, D, h0, tree=self.tree), h0

    def scalar(
        self, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h0: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """A Mamba-2 scan; the state returned is the incoming one."""
        h0 = x.new_zeros(x.shape[0], *x.shape[2:], B.shape[-1]) if h0 is None else h0
        self._scanned = x, dt, A, B, h0
        return tree_ssd(x, dt, A, B, C, D, h0, tree=self.tree), h0

    def memory(self, nodes: Tensor) -> Memory:
        """What the mixer carries after the path to a node.

        Args:
            nodes: (b,) int64, a node per sequence of the batch; -1: before the tree.
        """
        replay = replay_ssd if self._scanned[0].ndim == 4 else replay_selective
        h = replay(*self._scanned, tree=self.tree, node=nodes)
        if self._convolved is None:
            return Memory(None, h)
        return Memory(replay_convolution(*self._convolved, tree=self.tree, node=nodes), h)
