"""Trees of tokens that continue one sequence: what speculative verification runs over instead of a line of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tree:
    """Nodes 0 … T-1 in topological order; make one with `Tree.of`, `Tree.chain` or `Tree.full`.

    Attributes:
        links: the parent of every node, smaller than the node; -1 for children of the incoming state ("roots").
        parents: links as (T,) int64.
        depths: (T,) int64: number of ancestors, 0 for roots.
        ancestors: (T, T) bool: M[i, j] where j is i or an ancestor of i.
        order: (T,) int64: the nodes in depth-first order, siblings by number. When a node's turn comes, the latest
            node one level up is its parent, so that a stack of one state per level is enough.
        levels: the nodes of every depth.
    """

    links: tuple[int, ...]
    parents: Tensor = field(compare=False, repr=False)
    depths: Tensor = field(compare=False, repr=False)
    ancestors: Tensor = field(compare=False, repr=False)
    order: Tensor = field(compare=False, repr=False)
    levels: tuple[tuple[int, ...], ...] = field(compare=False, repr=False)

    @classmethod
    def of(cls, parents: Sequence[int] | Tensor) -> Tree:
        """The tree with these parents.

        Args:
            parents: of nodes 0 … T-1, each smaller than its node, -1 for children of the incoming state.

        Raises:
            ValueError: a parent that is the node itself, comes after it, or is no node; not a line of integers.
        """
        if isinstance(parents, Tensor):
            if parents.ndim != 1 or parents.is_floating_point() or parents.is_complex() or parents.dtype == torch.bool:
                raise ValueError(
                    f"parents is {parents.dtype} of shape {tuple(parents.shape)}: integers (T,) are needed"
                )
            parents = parents.tolist()
        links = tuple(parents)
        for node, parent in enumerate(links):
            if isinstance(parent, bool) or not isinstance(parent, int):
                raise ValueError(f"the parent of node {node} is {parent!r}: an integer is needed")
            if not -1 <= parent < len(links):
                raise ValueError(f"the parent of node {node} is {parent}: -1 … {len(links) - 1} are needed")
            if parent == node:
                raise ValueError(f"node {node} is its own parent")
            if parent > node:
                raise ValueError(f"the parent of node {node} is {parent}, which comes after it")
        return cls(links, *_derived(links))

    @classmethod
    def chain(cls, length: int) -> Tree:
        """Nodes one after the other: a plain sequence."""
        return cls.of(range(-1, length - 1))

    @classmethod
    def full(cls, branching: Sequence[int]) -> Tree:
        """branching[d] children under every node of level d - 1, level by level; (3, 2): 3 roots, 2 children each.

        Raises:
            ValueError: a number of children below 1.
        """
        if any(count < 1 for count in branching):
            raise ValueError(f"branching is {tuple(branching)}: every level needs at least one child")
        links: list[int] = []
        above = [-1]
        for count in branching:
            start = len(links)
            links += [parent for parent in above for _ in range(count)]
            above = list(range(start, len(links)))
        return cls.of(links)

    @property
    def size(self) -> int:
        """Number of nodes T."""
        return len(self.links)

    @property
    def roots(self) -> tuple[int, ...]:
        """Children of the incoming state."""
        return tuple(node for node, parent in enumerate(self.links) if parent < 0)

    @property
    def children(self) -> tuple[tuple[int, ...], ...]:
        """The children of every node, ascending."""
        found: list[list[int]] = [[] for _ in self.links]
        for node, parent in enumerate(self.links):
            if parent >= 0:
                found[parent].append(node)
        return tuple(map(tuple, found))

    def path(self, node: int) -> tuple[int, ...]:
        """Nodes from a root to `node`; none for -1.

        Raises:
            ValueError: no such node.
        """
        if not -1 <= node < self.size:
            raise ValueError(f"node is {node}: -1 … {self.size - 1} are needed")
        found = []
        while node >= 0:
            found.append(node)
            node = self.links[node]
        return tuple(reversed(found))

    @property
    def tensors(self) -> list[Tensor]:
        """parents, depths, ancestors, order: what kernels read."""
        return [self.parents, self.depths, self.ancestors, self.order]

    def to(self, device: torch.device | str) -> Tree:
        """The same tree with its tensors on `device`; do this once, not in every call."""
        if self.parents.device == torch.device(device):
            return self
        moved = {name: getattr(self, name).to(device) for name in ("parents", "depths", "ancestors", "order")}
        return replace(self, **moved)


def _derived(links: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[tuple[int, ...], ...]]:
    """parents, depths, ancestors, order, levels."""
    ancestors = torch.eye(len(links), dtype=torch.bool)
    below: list[list[int]] = [[] for _ in range(len(links) + 1)]  # the last one: the roots
    depths: list[int] = []
    for node, parent in enumerate(links):
        if parent >= 0:
            ancestors[node] |= ancestors[parent]
        depths.append(depths[parent] + 1 if parent >= 0 else 0)
        below[parent].append(node)
    levels: list[list[int]] = [[] for _ in range(max(depths, default=-1) + 1)]
    for node, depth in enumerate(depths):
        levels[depth].append(node)
    order: list[int] = []
    waiting = below[-1][::-1]
    while waiting:
        node = waiting.pop()
        order.append(node)
        waiting += below[node][::-1]
    numbers = (torch.tensor(column, dtype=torch.int64) for column in (links, depths, order))
    parents, depth, first = numbers
    return parents, depth, ancestors, first, tuple(map(tuple, levels))


def accepted(tree: Tree, node: int | Tensor, batch: int, device: torch.device) -> Tensor:
    """The accepted node of every batch element as (b,) int64 on `device`.

    Args:
        node: one for all, or (b,) integers; -1 where nothing was accepted. Best on the CPU: the check of its values
            waits for the device otherwise.

    Raises:
        ValueError: another shape or dtype, or no such node.
    """
    if isinstance(node, Tensor):
        if tuple(node.shape) != (batch,) or node.dtype not in (torch.int32, torch.int64):
            raise ValueError(
                f"node is {node.dtype} of shape {tuple(node.shape)}: an integer or integers (b,) are needed"
            )
        # Values are not known while a graph is traced.
        if not torch.compiler.is_compiling() and bool(((node < -1) | (node >= tree.size)).any()):
            raise ValueError(f"node has {node.tolist()}: -1 … {tree.size - 1} are needed")
        return node.to(device, torch.int64)
    if not -1 <= node < tree.size:
        raise ValueError(f"node is {node}: -1 … {tree.size - 1} are needed")
    return torch.full((batch,), node, dtype=torch.int64, device=device)
