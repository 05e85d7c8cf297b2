"""The short convolution over trees: along every path the plain convolution, and the bits of its single steps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ssmtool_kernels import native
from ssmtool_kernels.convolution import short_convolution_step
from ssmtool_kernels.tree import Tree, replay_convolution, tree_convolution

F64 = torch.float64
MIXED = Tree.of([-1, -1, 0, 1, 0, 2, 2, 5, 1])
TREES = [Tree.of([-1]), Tree.chain(6), Tree.of([-1, 0, 0, 0]), Tree.of([-1, -1, -1]), Tree.full((2, 2, 2)), MIXED]


@pytest.mark.parametrize("tree", TREES, ids=str)
@pytest.mark.parametrize("taps", [1, 2, 4])
def test_convolution_runs_along_every_path(tree: Tree, taps: int) -> None:
    g = torch.Generator().manual_seed(taps)
    x, weight, bias, tail = (
        torch.randn(shape, generator=g, dtype=F64) for shape in ((2, tree.size, 3), (3, taps), (3,), (2, taps - 1, 3))
    )
    y = tree_convolution(x, weight, bias, tail, tree=tree)
    for node in range(tree.size):
        line = torch.cat([tail, x[:, list(tree.path(node))]], dim=1)
        plain = F.conv1d(line.mT, weight[:, None], bias, groups=3).mT
        assert torch.allclose(y[:, node], plain[:, -1], rtol=1e-12, atol=1e-12)
        after = replay_convolution(x, tail, tree=tree, node=node)
        assert torch.equal(after, line[:, line.shape[1] - taps + 1 :])
    nodes = torch.tensor([tree.size - 1, -1])
    assert torch.equal(replay_convolution(x, tail, tree=tree, node=nodes)[1], tail[1])


@pytest.mark.parametrize("backend", ["torch", "cpu"])
@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.bfloat16])
def test_convolution_has_the_bits_of_single_steps(backend: str, dtype: torch.dtype) -> None:
    if backend == "cpu" and native.missing():
        pytest.skip(native.missing())
    tree = MIXED
    x, weight, bias, tail = (
        torch.randn(shape, generator=torch.Generator().manual_seed(3)).to(dtype)
        for shape in ((2, 9, 37), (37, 4), (37,), (2, 3, 37))
    )
    y = tree_convolution(x, weight, bias, tail, tree=tree, backend=backend)
    for node in range(tree.size):
        now = tail
        for i in tree.path(node):
            out, now = short_convolution_step(x[:, i], weight, bias, now, backend=backend)
        assert torch.equal(out, y[:, node])
        assert torch.equal(now, replay_convolution(x, tail, tree=tree, node=node))


def test_convolution_of_nothing_before_starts_from_zeros() -> None:
    x, weight = torch.randn(1, 4, 2), torch.randn(2, 3)
    zeros = torch.zeros(1, 2, 2)
    tree = Tree.chain(4)
    assert torch.equal(tree_convolution(x, weight, tree=tree), tree_convolution(x, weight, tail=zeros, tree=tree))
    with pytest.raises(ValueError, match="tail has shape"):
        tree_convolution(x, weight, tail=zeros[:, 1:], tree=tree)
