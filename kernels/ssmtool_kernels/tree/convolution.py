"""The short causal convolution in front of a scan, over a tree: windows run along ancestors, then into the past."""

from __future__ import annotations

import torch
from torch import Tensor

from ssmtool_kernels.checks import dimensions, same_kind, shaped
from ssmtool_kernels.convolution import short_convolution
from ssmtool_kernels.tree.tree import Tree, accepted


def tree_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    tail: Tensor | None = None,
    *,
    tree: Tree,
    backend: str = "auto",
) -> Tensor:
    """y_i = bias + sum_k weight[K-1-k] x[the k-th ancestor of i], the tail standing for what came before the roots.

    Every node is one step of `short_convolution` with its own window for a tail, and has the bits of that step.

    Args:
        x: (b, T, c) inputs of the nodes, float; float16 and bfloat16 are summed in float32.
        weight: (c, K), the newest tap last.
        bias: (c,).
        tail: (b, K - 1, c) the last inputs of the sequence before the tree, newest last; 0 by default.
        tree: of T nodes.
        backend: see `ssmtool_kernels.backends`.

    Returns:
        y (b, T, c), no activation applied. Differentiable in everything.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit.
        BackendError: the backend cannot run here.
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
    if x.numel() == 0:
        return x.clone()
    padded = torch.cat([x.new_zeros(batch, taps - 1, channels) if tail is None else tail, x], dim=1)
    own = taps - 1 + torch.arange(size, device=x.device)
    before = padded[:, _windows(tree, own, taps, taps - 1)[:, :-1]]
    y, _ = short_convolution(x.reshape(-1, 1, channels), weight, bias, before.flatten(0, 1), backend=backend)
    return y.view(x.shape)


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
    last = kept + accepted(tree, node, batch, x.device)
    if kept == 0:
        return tail
    places = _windows(tree, last, kept, kept)
    return torch.cat([tail, x], dim=1).gather(1, places[..., None].expand(-1, -1, channels))


def _windows(tree: Tree, last: Tensor, count: int, kept: int) -> Tensor:
    """Places (…, count) of the last inputs up to the places `last`, oldest first: `kept` of tail, then the nodes.

    The place before a node's is its parent's; before a root's, that of parent -1, comes the end of the tail.
    """
    before = torch.cat([torch.arange(-1, kept - 1, device=last.device), kept + tree.parents.to(last.device)])
    places = [last]
    for _ in range(count - 1):
        places.append(before[places[-1]])
    return torch.stack(places[::-1], dim=-1)
