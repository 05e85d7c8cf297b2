"""The short causal convolution in front of a scan, over a tree: windows run along ancestors, then into the past."""

from __future__ import annotations

import torch
from torch import Tensor

from ssmtool_kernels.checks import dimensions, same_kind, shaped
from ssmtool_kernels.tree.tree import Tree, accepted


def tree_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, tail: Tensor | None = None, *, tree: Tree
) -> Tensor:
    """y_i = bias + sum_k weight[K-1-k] x[the k-th ancestor of i], the tail standing for what came before the roots.

    Taps are added from the oldest to the newest, one rounding each, whatever the tree: the result of a node has the
    same bits in a tree and as a single step (`Tree.chain(1)`).

    Args:
        x: (b, T, c) inputs of the nodes.
        weight: (c, K), the newest tap last.
        bias: (c,).
        tail: (b, K - 1, c) the last inputs of the sequence before the tree, newest last; 0 by default.
        tree: of T nodes.

    Returns:
        y (b, T, c), no activation applied. Differentiable in everything.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit.
    """
    batch, size, channels = dimensions("x", x, "b, T, c")
    taps = dimensions("weight", weight, "c, K")[1]
    if taps < 1:
        raise ValueError("weight has no taps")
    shaped("x", x, batch, tree.size, channels, letters="(b, nodes of the tree, c)")
    shaped("weight", weight, channels, taps, letters="(c, K)")
    shaped("bias", bias, channels, letters="(c,)")
    shaped("tail", tail, batch, taps - 1, channels, letters="(b, K - 1, c)")
    same_kind("x", x, weight=weight, bias=bias, tail=tail)
    old = x.new_zeros(batch, taps - 1, channels) if tail is None else tail
    padded = torch.cat([old, x], dim=1)
    y = x.new_zeros(batch, size, channels) if bias is None else bias.expand(batch, size, channels)
    for k, places in enumerate(zip(*(_window(tree, i, taps, taps - 1) for i in range(size)), strict=True)):
        y = y + weight[:, k] * padded[:, list(places)]
    return y


def replay_convolution(x: Tensor, tail: Tensor, *, tree: Tree, node: int | Tensor) -> Tensor:
    """The tail (b, K - 1, c) after the accepted path.

    Args:
        x: (b, T, c) inputs of the nodes.
        tail: (b, K - 1, c) before the tree, newest last.
        tree: of T nodes.
        node: the last accepted node, one for all or (b,); -1: none, the tail stays.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, or no such node.
    """
    batch, _, channels = dimensions("x", x, "b, T, c")
    kept = dimensions("tail", tail, "b, K - 1, c")[1]
    shaped("x", x, batch, tree.size, channels, letters="(b, nodes of the tree, c)")
    shaped("tail", tail, batch, kept, channels, letters="(b, K - 1, c)")
    same_kind("x", x, tail=tail)
    windows = torch.tensor([_window(tree, i, kept, kept) for i in [*range(tree.size), -1]], device=x.device)
    chosen = windows.view(tree.size + 1, kept).long()[accepted(tree, node, batch, x.device)]
    padded = torch.cat([tail, x], dim=1)
    return padded.gather(1, chosen[..., None].expand(-1, -1, channels))


def _window(tree: Tree, node: int, count: int, kept: int) -> list[int]:
    """Places of the last `count` inputs up to `node`, oldest first, in `kept` places of tail followed by the nodes."""
    near = tree.path(node)[-count:] if count else ()
    missing = count - len(near)
    return [*range(kept - missing, kept), *(kept + i for i in near)]
