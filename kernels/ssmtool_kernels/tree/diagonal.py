"""The time-invariant diagonal scan over a tree of tokens, and the state after the accepted path."""

from __future__ import annotations

import torch
from torch import Tensor

from ssmtool_kernels.backends import resolve
from ssmtool_kernels.checks import dimensions, same_kind, shaped
from ssmtool_kernels.tree import ops
from ssmtool_kernels.tree.masked import replay_diagonal_masked, tree_diagonal_masked
from ssmtool_kernels.tree.naive import diagonal_at, replay_naive, tree_naive
from ssmtool_kernels.tree.tree import Tree, accepted

REAL = {torch.complex64: torch.float32, torch.complex128: torch.float64}


def tree_diagonal_scan(
    lam: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    u: Tensor,
    x0: Tensor | None = None,
    *,
    tree: Tree,
    backend: str = "auto",
) -> Tensor:
    """x_i = lam x_p(i) + B u_i,  y_i = Re(C x_i) + D u_i,  x_-1 = x0, for every system and node i.

    No state is stored: `replay_diagonal` recomputes the one of the accepted node.
    On the CPU every node has the bits of decoding step by step along its path (a tree of one node), so that verifying
    accepts what decoding would have produced; the other backends agree with a step to rounding.

    Args:
        lam: (S, n) complex eigenvalues of S systems.
        B: (S, n, m), C: (S, p, n) complex, of lam's dtype.
        D: (S, p, m) real feedthrough, or None.
        u: (b, S, T, m) real inputs of the nodes; lam is complex64 or complex128 accordingly. float16 and bfloat16 are
            computed in float32.
        x0: (b, S, n) complex state before the tree; 0 by default.
        tree: of T nodes.
        backend: see `ssmtool_kernels.backends`.

    Returns:
        y (b, S, T, p) in u's dtype. Differentiable in all tensors: where gradients are needed the form in
        plain PyTorch runs, on every backend but naive.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit.
        BackendError: the backend cannot run here.
    """
    work = _checked(lam, B, u, x0, tree)
    systems, states = lam.shape
    inputs, outputs = B.shape[2], dimensions("C", C, "S, p, n")[1]
    shaped("C", C, systems, outputs, states, letters="(S, p, n)")
    shaped("D", D, systems, outputs, inputs, letters="(S, p, m)")
    same_kind("lam", lam, C=C)
    if D is not None and (D.dtype not in (u.dtype, work) or D.device != u.device):
        raise ValueError(f"D is {D.dtype} on {D.device}, u is {u.dtype} on {u.device}")
    state = lam.new_zeros(u.shape[0], *lam.shape) if x0 is None else x0
    chosen = resolve(backend, u)
    if tree.size == 0:
        return u.new_zeros(u.shape[0], systems, 0, outputs)
    parts = (lam, B, C, None if D is None else D.to(work), u.to(work), state)
    if chosen == "naive":
        through = u.new_zeros((systems, outputs, inputs), dtype=work) if D is None else D.to(work)
        return tree_naive(tree, diagonal_at(lam, B, C, through, u.to(work)), state, axis=2).to(u.dtype)
    wide = chosen == "triton" and inputs * outputs > states  # then products of whole matrices are the faster form
    if chosen == "torch" or wide or ops.needs_gradient(*parts) or not ops.fits(chosen, tree):
        return tree_diagonal_masked(*parts, tree).to(u.dtype)
    return ops.diagonal(*parts, tree.to(u.device).tensors, len(tree.levels), chosen).to(u.dtype)


def replay_diagonal(
    lam: Tensor,
    B: Tensor,
    u: Tensor,
    x0: Tensor | None = None,
    *,
    tree: Tree,
    node: int | Tensor,
    backend: str = "auto",
) -> Tensor:
    """The state after the path to `node`, from the inputs the verifying pass has seen.

    Args:
        lam, B, u, x0, tree, backend: as for `tree_diagonal_scan`.
        node: the last accepted node, one for all or (b,) integers; -1: none, the state is x0.

    Returns:
        x (b, S, n) in lam's dtype.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, or no such node.
        BackendError: the backend cannot run here.
    """
    work = _checked(lam, B, u, x0, tree)
    nodes = accepted(tree, node, u.shape[0], u.device)
    state = lam.new_zeros(u.shape[0], *lam.shape) if x0 is None else x0
    chosen = resolve(backend, u)
    if chosen == "naive":
        nothing = lam.new_zeros(lam.shape[0], 0, lam.shape[1]), u.new_zeros((lam.shape[0], 0, u.shape[3]), dtype=work)
        return replay_naive(tree, diagonal_at(lam, B, *nothing, u.to(work)), state, nodes.tolist())
    if chosen in ("torch", "triton") or ops.needs_gradient(lam, B, u, state):
        return replay_diagonal_masked(lam, B, u.to(work), state, tree, nodes)
    return ops.replay_diagonal(lam, B, u.to(work), state, tree.tensors, nodes, len(tree.levels))


def _checked(lam: Tensor, B: Tensor, u: Tensor, x0: Tensor | None, tree: Tree) -> torch.dtype:
    """The real dtype to compute in. Raises ValueError."""
    systems, states = dimensions("lam", lam, "S, n")
    batch, inputs = dimensions("u", u, "b, S, T, m")[0], u.shape[3]
    shaped("u", u, batch, systems, tree.size, inputs, letters="(b, S, nodes of the tree, m)")
    shaped("B", B, systems, states, inputs, letters="(S, n, m)")
    shaped("x0", x0, batch, systems, states, letters="(b, S, n)")
    same_kind("lam", lam, B=B, x0=x0)
    if lam.dtype not in REAL:
        raise ValueError(f"lam is {lam.dtype}: complex64 or complex128 is needed")
    work = REAL[lam.dtype]
    if u.device != lam.device:
        raise ValueError(f"u is on {u.device}, lam on {lam.device}")
    if u.dtype != work and not (work == torch.float32 and u.dtype in (torch.float16, torch.bfloat16)):
        raise ValueError(f"u is {u.dtype}, lam is {lam.dtype}: {work} is needed")
    return work
