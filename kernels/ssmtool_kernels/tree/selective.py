"""The selective scan of Mamba-1 over a tree of tokens, and the state after the accepted path."""

from __future__ import annotations

import torch
from torch import Tensor

from ssmtool_kernels.backends import resolve
from ssmtool_kernels.checks import dimensions, shaped
from ssmtool_kernels.tree import ops
from ssmtool_kernels.tree.masked import replay_selective_masked, tree_selective_levels
from ssmtool_kernels.tree.naive import replay_naive, selective_at, tree_naive
from ssmtool_kernels.tree.precision import cast, working
from ssmtool_kernels.tree.tree import Tree, accepted


def tree_selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    h0: Tensor | None = None,
    *,
    tree: Tree,
    backend: str = "auto",
) -> Tensor:
    """h_i = e^{dt_i A} h_p(i) + dt_i x_i B_i,  y_i = C_i . h_i + D x_i,  h_-1 = h0, for every channel and node i.

    No state is stored: `replay_selective` recomputes the one of the accepted node.
    On the CPU every node has the bits of decoding step by step along its path (`selective_step`), so that verifying
    accepts what decoding would have produced; the other backends agree with a step to rounding.

    Args:
        x: (b, T, E) inputs of the nodes, float16, bfloat16 (both computed in float32), float32 or float64.
        dt: (b, T, E) step sizes, positive.
        A: (E, N), negative.
        B, C: (b, T, G, N); channel e uses group e // (E / G).
        D: (E,) feedthrough; none by default.
        h0: (b, E, N) state before the tree; 0 by default.
        tree: of T nodes.
        backend: see `ssmtool_kernels.backends`.

    Returns:
        y (b, T, E) in x's dtype. Differentiable in all tensors: where gradients are needed the scan goes
        level by level in plain PyTorch, on every backend but naive.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit.
        BackendError: the backend cannot run here.
    """
    work = _checked(x, dt, A, B, h0, tree)
    shaped("C", C, *B.shape, letters="(b, T, G, N)")
    shaped("D", D, x.shape[2], letters="(E,)")
    working("x", x, C=C, D=D)
    state = x.new_zeros((x.shape[0], *A.shape), dtype=work) if h0 is None else h0.to(work)
    chosen = resolve(backend, x)
    skip = None if D is None else D.to(work)
    inputs: tuple[Tensor, ...] = (x, dt, A, B, C)
    if tree.size == 0:
        return x.clone()
    if chosen == "naive":
        return tree_naive(tree, selective_at(*[*cast(work, *inputs), skip]), state).to(x.dtype)
    if chosen == "torch" or ops.needs_gradient(*inputs, skip, state) or not ops.fits(chosen, tree):
        return tree_selective_levels(*[*cast(work, *inputs), skip, state, tree]).to(x.dtype)
    if chosen == "cpu":
        inputs = cast(work, *inputs)
    return ops.selective(*inputs, skip, state, tree.to(x.device).tensors, len(tree.levels), chosen).to(x.dtype)


def replay_selective(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    h0: Tensor | None = None,
    *,
    tree: Tree,
    node: int | Tensor,
    backend: str = "auto",
) -> Tensor:
    """The state after the path to `node`, from the activations the verifying pass has seen.

    Args:
        x, dt, A, B, h0, tree, backend: as for `tree_selective_scan`.
        node: the last accepted node, one for all or (b,) integers; -1: none, the state is h0.

    Returns:
        h (b, E, N) in h0's dtype.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, or no such node.
        BackendError: the backend cannot run here.
    """
    work = _checked(x, dt, A, B, h0, tree)
    nodes = accepted(tree, node, x.shape[0], x.device)
    state = x.new_zeros((x.shape[0], *A.shape), dtype=work) if h0 is None else h0.to(work)
    kept = x.dtype if h0 is None else h0.dtype
    chosen = resolve(backend, x)
    inputs = cast(work, x, dt, A, B)
    if chosen == "naive":
        return replay_naive(tree, selective_at(*[*inputs, inputs[3], None]), state, nodes.tolist()).to(kept)
    if chosen == "torch" or ops.needs_gradient(*inputs, state) or not ops.fits(chosen, tree):
        return replay_selective_masked(*[*inputs, state, tree, nodes]).to(kept)
    inputs = inputs if chosen == "cpu" else (x, dt, A, B)
    return ops.replay_selective(*inputs, state, tree.to(x.device).tensors, nodes, len(tree.levels), chosen).to(kept)


def _checked(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, h0: Tensor | None, tree: Tree) -> torch.dtype:
    """The dtype to compute in. Raises ValueError."""
    batch, size, channels = dimensions("x", x, "b, T, E")
    groups, states = dimensions("B", B, "b, T, G, N")[2:]
    shaped("x", x, batch, tree.size, channels, letters="(b, nodes of the tree, E)")
    shaped("dt", dt, batch, size, channels, letters="(b, T, E)")
    shaped("A", A, channels, states, letters="(E, N)")
    shaped("B", B, batch, size, groups, states, letters="(b, T, G, N)")
    shaped("h0", h0, batch, channels, states, letters="(b, E, N)")
    if groups < 1 or channels % groups:
        raise ValueError(f"E = {channels} channels cannot share G = {groups} groups evenly")
    return working("x", x, dt=dt, A=A, B=B, h0=h0)
