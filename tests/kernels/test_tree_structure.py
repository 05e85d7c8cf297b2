"""Trees: what they know of themselves, and what is no tree."""

from __future__ import annotations

import pytest
import torch

from ssmtool_kernels.tree import Tree


def test_what_a_tree_knows_of_itself() -> None:
    tree = Tree.full((3, 2))
    assert tree.links == (-1, -1, -1, 0, 0, 1, 1, 2, 2)
    assert tree.roots == (0, 1, 2)
    assert tree.children == ((3, 4), (5, 6), (7, 8), (), (), (), (), (), ())
    assert tree.levels == ((0, 1, 2), (3, 4, 5, 6, 7, 8))
    assert tree.order.tolist() == [0, 3, 4, 1, 5, 6, 2, 7, 8]
    assert tree.depths.tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert tree.path(6) == (1, 6)
    assert tree.path(-1) == ()
    assert tree == Tree.of(torch.tensor(tree.links))
    assert Tree.chain(3) == Tree.of([-1, 0, 1])
    assert Tree.of([]).size == 0
    for known in (tree, Tree.chain(5), Tree.of([-1, -1, 0, 1, 0, 2, 2, 5, 1])):
        for node in range(known.size):
            assert known.ancestors[node].nonzero().flatten().tolist() == sorted(known.path(node))
            assert int(known.depths[node]) == len(known.path(node)) - 1


@pytest.mark.parametrize(
    ("parents", "said"),
    [
        ([-1, 2, 0], "the parent of node 1 is 2, which comes after it"),
        ([-1, 1], "node 1 is its own parent"),
        ([1, 0], "the parent of node 0 is 1, which comes after it"),
        ([-1, -2], "the parent of node 1 is -2"),
        ([-1, 5], "the parent of node 1 is 5"),
        ([-1, 0.0], "the parent of node 1 is 0.0"),
        (torch.tensor([[-1, 0]]), "integers"),
        (torch.tensor([-1.0, 0.0]), "integers"),
    ],
)
def test_bad_trees(parents: list[int], said: str) -> None:
    with pytest.raises(ValueError, match=said) as raised:
        Tree.of(parents)
    assert "\n" not in str(raised.value)


def test_a_path_ends_at_a_node() -> None:
    with pytest.raises(ValueError, match="node is 4"):
        Tree.chain(4).path(4)
    with pytest.raises(ValueError, match="at least one child"):
        Tree.full((2, 0))
