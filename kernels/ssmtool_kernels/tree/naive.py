"""Scans over trees exactly as they are defined: a decoding step per node, from its parent's state. The truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ssmtool_kernels.diagonal_scan.naive import diagonal_step
from ssmtool_kernels.selective_scan.naive import selective_step_naive
from ssmtool_kernels.ssd.naive import ssd_step_naive
from ssmtool_kernels.tree.tree import Tree

Step = Callable[[int, Tensor], tuple[Tensor, Tensor]]  # (node, state before) -> output, state after


def ssd_at(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None) -> Step:
    """y (b, H, P) and h (b, H, P, N) of a node; shapes as in `tree_ssd`."""
    return lambda i, h: ssd_step_naive(x[:, i], dt[:, i], A, B[:, i], C[:, i], D, h)


def selective_at(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None) -> Step:
    """y (b, E) and h (b, E, N) of a node; shapes as in `tree_selective_scan`."""
    return lambda i, h: selective_step_naive(x[:, i], dt[:, i], A, B[:, i], C[:, i], D, h)


def diagonal_at(lam: Tensor, B: Tensor, C: Tensor, D: Tensor, u: Tensor) -> Step:
    """y (b, S, p) and x (b, S, n) of a node; shapes as in `tree_diagonal_scan`."""
    return lambda i, x: diagonal_step(lam, B, C, D, u[:, :, i], x)


def tree_naive(tree: Tree, step: Step, state: Tensor, axis: int = 1) -> Tensor:
    """The outputs of all nodes, one at least, put together along `axis`."""
    states, outputs = {-1: state}, []
    for node, parent in enumerate(tree.links):
        y, states[node] = step(node, states[parent])
        outputs.append(y)
    return torch.stack(outputs, dim=axis)


def replay_naive(tree: Tree, step: Step, state: Tensor, nodes: Sequence[int]) -> Tensor:
    """For every batch element the state after the path to its node: a linear run over the path."""
    last = []
    for element, node in enumerate(nodes):
        h = state
        for i in tree.path(node):
            _, h = step(i, h)
        last.append(h[element])
    return torch.stack(last) if last else state
