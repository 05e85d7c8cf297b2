"""The scan of Mamba-2 over a tree of tokens, and the state after the accepted path."""

from __future__ import annotations

import torch
from torch import Tensor

from ssmtool_kernels.backends import resolve
from ssmtool_kernels.checks import dimensions, shaped
from ssmtool_kernels.tree import ops
from ssmtool_kernels.tree.masked import replay_ssd_masked, tree_ssd_masked
from ssmtool_kernels.tree.naive import replay_naive, ssd_at, tree_naive
from ssmtool_kernels.tree.precision import cast, working
from ssmtool_kernels.tree.tree import Tree, accepted


def tree_ssd(
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
    """h_i = e^{dt_i A} h_p(i) + dt_i x_i B_i^T,  y_i = h_i C_i + D x_i,  h_-1 = h0, for every head and node i.

    No state is stored: `replay_ssd` recomputes the one of the accepted node.
    On the CPU every node has the bits of decoding step by step along its path (`ssd_step`), so that verifying accepts
    what decoding would have produced; the other backends agree with a step to rounding.

    Args:
        x: (b, T, H, P) inputs of the nodes, float16, bfloat16 (both computed in float32), float32 or float64.
        dt: (b, T, H) step sizes, positive.
        A: (H,), negative.
        B, C: (b, T, G, N); head j uses group j // (H / G).
        D: (H,), (H, 1) or (H, P) feedthrough; none by default.
        h0: (b, H, P, N) state before the tree; 0 by default.
        tree: of T nodes.
        backend: see `ssmtool_kernels.backends`.

    Returns:
        y (b, T, H, P) in x's dtype. Differentiable in all tensors: where gradients are needed the masked
        matrix form in plain PyTorch runs, on every backend but naive.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit.
        BackendError: the backend cannot run here.
    """
    work = _checked(x, dt, A, B, h0, tree)
    shaped("C", C, *B.shape, letters="(b, T, G, N)")
    working("x", x, C=C, D=D)
    batch, _, heads, width = x.shape
    if D is not None:
        D = (D[:, None] if D.ndim == 1 else D).to(work)
        if tuple(D.shape) not in ((heads, 1), (heads, width)):
            raise ValueError(f"D has shape {tuple(D.shape)}: (H, P) = {(heads, width)}, (H, 1) or (H,) are needed")
    state = x.new_zeros((batch, heads, width, B.shape[3]), dtype=work) if h0 is None else h0.to(work)
    chosen = resolve(backend, x)
    inputs: tuple[Tensor, ...] = (x, dt, A, B, C)
    if tree.size == 0:
        return x.clone()
    if chosen == "naive":
        return tree_naive(tree, ssd_at(*[*cast(work, *inputs), D]), state).to(x.dtype)
    if chosen == "torch" or ops.needs_gradient(*inputs, D, state) or not ops.fits(chosen, tree):
        return tree_ssd_masked(*[*cast(work, *inputs), D, state, tree]).to(x.dtype)
    if chosen == "cpu":
        inputs = cast(work, *inputs)
    if D is not None:
        D = D.expand(heads, width)
    return ops.ssd(*inputs, D, state, tree.to(x.device).tensors, len(tree.levels), chosen).to(x.dtype)


def replay_ssd(
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
        x, dt, A, B, h0, tree, backend: as for `tree_ssd`.
        node: the last accepted node, one for all or (b,) integers; -1: none, the state is h0.

    Returns:
        h (b, H, P, N) in h0's dtype.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, or no such node.
        BackendError: the backend cannot run here.
    """
    work = _checked(x, dt, A, B, h0, tree)
    batch, _, heads, width = x.shape
    nodes = accepted(tree, node, batch, x.device)
    state = x.new_zeros((batch, heads, width, B.shape[3]), dtype=work) if h0 is None else h0.to(work)
    kept = x.dtype if h0 is None else h0.dtype
    chosen = resolve(backend, x)
    inputs = cast(work, x, dt, A, B)
    if chosen == "naive":
        return replay_naive(tree, ssd_at(*[*inputs, inputs[3], None]), state, nodes.tolist()).to(kept)
    if chosen == "torch" or ops.needs_gradient(*inputs, state) or not ops.fits(chosen, tree):
        return replay_ssd_masked(*[*inputs, state, tree, nodes]).to(kept)
    inputs = inputs if chosen == "cpu" else (x, dt, A, B)
    return ops.replay_ssd(*inputs, state, tree.to(x.device).tensors, nodes, len(tree.levels), chosen).to(kept)


def _checked(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, h0: Tensor | None, tree: Tree) -> torch.dtype:
    """The dtype to compute in. Raises ValueError."""
    batch, size, heads, width = dimensions("x", x, "b, T, H, P")
    groups, states = dimensions("B", B, "b, T, G, N")[2:]
    shaped("x", x, batch, tree.size, heads, width, letters="(b, nodes of the tree, H, P)")
    shaped("dt", dt, batch, size, heads, letters="(b, T, H)")
    shaped("A", A, heads, letters="(H,)")
    shaped("B", B, batch, size, groups, states, letters="(b, T, G, N)")
    shaped("h0", h0, batch, heads, width, states, letters="(b, H, P, N)")
    if groups < 1 or heads % groups:
        raise ValueError(f"H = {heads} heads cannot share G = {groups} groups evenly")
    return working("x", x, dt=dt, A=A, B=B, h0=h0)
