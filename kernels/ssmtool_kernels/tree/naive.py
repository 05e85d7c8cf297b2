"""Scans over trees exactly as they are defined, a node after its parent, in any floating dtype: the truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ssmtool_kernels.tree.tree import Tree

Advance = Callable[[int, Tensor], Tensor]


def ssd_update(x: Tensor, dt: Tensor, A: Tensor, B: Tensor) -> Advance:
    """(node, state before (b, H, P, N)) -> state after: e^{dt A} h + dt x B^T. Shapes as in `tree_ssd`."""
    repeat = x.shape[2] // B.shape[2]

    def advance(i: int, h: Tensor) -> Tensor:
        rows = B[:, i].repeat_interleave(repeat, dim=1)
        decay = torch.exp(dt[:, i] * A)[..., None, None]
        return decay * h + (dt[:, i, :, None] * x[:, i])[..., None] * rows[:, :, None]

    return advance


def selective_update(x: Tensor, dt: Tensor, A: Tensor, B: Tensor) -> Advance:
    """(node, state before (b, E, N)) -> state after: e^{dt A} h + dt x B. Shapes as in `tree_selective_scan`."""
    repeat = x.shape[2] // B.shape[2]

    def advance(i: int, h: Tensor) -> Tensor:
        rows = B[:, i].repeat_interleave(repeat, dim=1)
        return torch.exp(dt[:, i, :, None] * A) * h + (dt[:, i] * x[:, i])[..., None] * rows

    return advance


def diagonal_update(lam: Tensor, B: Tensor, u: Tensor) -> Advance:
    """(node, state before (b, S, n)) -> state after: lam x + B u. Shapes as in `tree_diagonal_scan`."""

    def advance(i: int, x: Tensor) -> Tensor:
        return lam * x + torch.einsum("snm,bsm->bsn", B, u[:, :, i].to(lam.dtype))

    return advance


def walk(tree: Tree, advance: Advance, state: Tensor) -> dict[int, Tensor]:
    """The state after every node; -1: the incoming one."""
    states = {-1: state}
    for node, parent in enumerate(tree.links):
        states[node] = advance(node, states[parent])
    return states


def replay_naive(tree: Tree, advance: Advance, state: Tensor, nodes: Sequence[int]) -> Tensor:
    """For every batch element the state after the path to its node: a linear run over the path."""
    last = []
    for element, node in enumerate(nodes):
        h = state
        for i in tree.path(node):
            h = advance(i, h)
        last.append(h[element])
    return torch.stack(last) if last else state


def tree_ssd_naive(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, h0: Tensor, tree: Tree
) -> Tensor:
    """y (b, T, H, P): see `tree_ssd`."""
    repeat = x.shape[2] // B.shape[2]
    states = walk(tree, ssd_update(x, dt, A, B), h0)
    outputs = [(states[i] @ C[:, i].repeat_interleave(repeat, dim=1)[..., None]).squeeze(-1) for i in range(tree.size)]
    y = torch.stack(outputs, dim=1) if outputs else torch.zeros_like(x)
    return y if D is None else y + D * x


def tree_selective_naive(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, h0: Tensor, tree: Tree
) -> Tensor:
    """y (b, T, E): see `tree_selective_scan`."""
    repeat = x.shape[2] // B.shape[2]
    states = walk(tree, selective_update(x, dt, A, B), h0)
    outputs = [(states[i] * C[:, i].repeat_interleave(repeat, dim=1)).sum(-1) for i in range(tree.size)]
    y = torch.stack(outputs, dim=1) if outputs else torch.zeros_like(x)
    return y if D is None else y + D * x


def tree_diagonal_naive(
    lam: Tensor, B: Tensor, C: Tensor, D: Tensor | None, u: Tensor, x0: Tensor, tree: Tree
) -> Tensor:
    """y (b, S, T, p): see `tree_diagonal_scan`."""
    states = walk(tree, diagonal_update(lam, B, u), x0)
    outputs = [torch.einsum("spn,bsn->bsp", C, states[i]).real for i in range(tree.size)]
    y = torch.stack(outputs, dim=2) if outputs else u.new_zeros(*u.shape[:3], C.shape[1])
    return y if D is None else y + torch.einsum("spm,bstm->bstp", D, u)
