"""Scans over trees in C and Triton, registered with PyTorch. Forward only: see `needs_gradient`."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from ssmtool_kernels import native
from ssmtool_kernels.tree.tree import Tree

LARGEST = 64  # nodes of a tree on a GPU
ROWS = 32  # SSD_ROWS of ssd_node.h and SELECTIVE_WIDTH of selective_node.h


def needs_gradient(*tensors: Tensor | None) -> bool:
    """Whether autograd will ask for the way back: then the form in plain PyTorch runs, on every device."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def fits(backend: str, tree: Tree) -> bool:
    """Whether compiled kernels take the tree: not one without nodes, nor, on a GPU, weights too many for registers."""
    return 0 < tree.size <= (LARGEST if backend == "triton" else tree.size)


def _triton(module: str = "triton") -> Any:
    return import_module(f"ssmtool_kernels.tree.{module}")


def _whole(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if tensor is None else tensor.contiguous() for tensor in tensors]


def _scratch(like: Tensor, numbers: int) -> Tensor:
    return torch.empty(max(1, numbers) * native.threads(), dtype=like.dtype)


def _run(name: str, like: Tensor, *arguments: Any) -> None:
    """Call the C function; tensors are made contiguous, the number of threads comes last."""
    ready = [value.contiguous() if isinstance(value, Tensor) else value for value in arguments]
    native.function("tree", name, like.dtype)(*ready, native.threads())


@torch.library.custom_op("ssmtool::tree_ssd", mutates_args=())
def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    h0: Tensor,
    tree: list[Tensor],
    levels: int,
    backend: str,
) -> Tensor:
    """As `tree_ssd`; D (H, P)."""
    if backend == "triton":
        return _triton().ssd(*_whole(x, dt, A, B, C, D, h0), tree[2])
    y = torch.empty(x.shape, dtype=x.dtype)
    batch, size, heads, width = x.shape
    groups, states = B.shape[2:]
    scratch = _scratch(x, (levels + 1) * states * ROWS)
    sizes = (batch, size, heads, width, groups, states, levels)
    _run("ssd", x, x, dt, A, B, C, D, h0, tree[3], tree[1], y, scratch, *sizes)
    return y


@ssd.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("ssmtool::tree_ssd_replay", mutates_args=())
def replay_ssd(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, h0: Tensor, tree: list[Tensor], node: Tensor, levels: int, backend: str
) -> Tensor:
    """As `replay_ssd`."""
    if backend == "triton":
        return _triton().replay_ssd(*_whole(x, dt, A, B, h0), tree[2], tree[1], node)
    h = torch.empty(h0.shape, dtype=h0.dtype)
    batch, size, heads, width = x.shape
    groups, states = B.shape[2:]
    paths = torch.empty((levels + 1) * native.threads(), dtype=torch.int64)
    sizes = (batch, size, heads, width, groups, states, levels)
    _run("replay_ssd", x, x, dt, A, B, h0, tree[0], node, h, paths, _scratch(x, levels + 1), *sizes)
    return h


@replay_ssd.register_fake
def _(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, h0: Tensor, *_: Any) -> Tensor:
    return h0.new_empty(h0.shape)


@torch.library.custom_op("ssmtool::tree_selective_scan", mutates_args=())
def selective(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    h0: Tensor,
    tree: list[Tensor],
    levels: int,
    backend: str,
) -> Tensor:
    """As `tree_selective_scan`."""
    if backend == "triton":
        return _triton("triton_selective").selective(*_whole(x, dt, A, B, C, D, h0), tree[3], tree[1], levels)
    y = torch.empty(x.shape, dtype=x.dtype)
    batch, size, channels = x.shape
    groups, states = B.shape[2:]
    scratch = _scratch(x, (levels + 2) * states * ROWS)
    sizes = (batch, size, channels, groups, states, levels)
    _run("selective", x, x, dt, A, B, C, D, h0, tree[3], tree[1], y, scratch, *sizes)
    return y


@selective.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("ssmtool::tree_selective_replay", mutates_args=())
def replay_selective(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, h0: Tensor, tree: list[Tensor], node: Tensor, levels: int, backend: str
) -> Tensor:
    """As `replay_selective`."""
    if backend == "triton":
        return _triton("triton_selective").replay_selective(*_whole(x, dt, A, B, h0), tree[2], tree[1], node)
    h = torch.empty(h0.shape, dtype=h0.dtype)
    batch, size, channels = x.shape
    groups, states = B.shape[2:]
    paths = torch.empty((levels + 1) * native.threads(), dtype=torch.int64)
    scratch = _scratch(x, 2 * states * ROWS)
    sizes = (batch, size, channels, groups, states, levels)
    _run("replay_selective", x, x, dt, A, B, h0, tree[0], node, h, paths, scratch, *sizes)
    return h


@replay_selective.register_fake
def _(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, h0: Tensor, *_: Any) -> Tensor:
    return h0.new_empty(h0.shape)


def _planes(tensor: Tensor) -> Tensor:
    """(2, ...): real and imaginary parts."""
    return torch.stack([tensor.real, tensor.imag])


@torch.library.custom_op("ssmtool::tree_diagonal_scan", mutates_args=())
def diagonal(
    lam: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    u: Tensor,
    x0: Tensor,
    tree: list[Tensor],
    levels: int,
    backend: str,
) -> Tensor:
    """As `tree_diagonal_scan`."""
    if backend == "triton":
        return _triton("triton_diagonal").diagonal(*_whole(lam, B, C, D, u, x0), tree[2], tree[1], levels)
    batch, systems, size, inputs = u.shape
    outputs, states = C.shape[1:]
    y = torch.empty((batch, systems, size, outputs), dtype=u.dtype)
    scratch = _scratch(u, 2 * levels * states)
    planes = (_planes(lam), _planes(B.mT), _planes(C))
    sizes = (batch, systems, size, states, inputs, outputs, levels)
    _run("diagonal", u, *planes, D, u, _planes(x0), tree[3], tree[1], y, scratch, *sizes)
    return y


@diagonal.register_fake
def _(lam: Tensor, B: Tensor, C: Tensor, D: Tensor | None, u: Tensor, *_: Any) -> Tensor:
    return u.new_empty((*u.shape[:3], C.shape[1]))


@torch.library.custom_op("ssmtool::tree_diagonal_replay", mutates_args=())
def replay_diagonal(
    lam: Tensor, B: Tensor, u: Tensor, x0: Tensor, tree: list[Tensor], node: Tensor, levels: int
) -> Tensor:
    """As `replay_diagonal`, on the CPU."""
    batch, systems, size, inputs = u.shape
    x = torch.empty((2, *x0.shape), dtype=u.dtype)
    scratch = torch.empty((levels + 1) * native.threads(), dtype=torch.int64)
    sizes = (batch, systems, size, lam.shape[1], inputs, levels)
    _run("replay_diagonal", u, _planes(lam), _planes(B.mT), u, _planes(x0), tree[0], node, x, scratch, *sizes)
    return torch.complex(x[0], x[1])


@replay_diagonal.register_fake
def _(lam: Tensor, B: Tensor, u: Tensor, x0: Tensor, *_: Any) -> Tensor:
    return x0.new_empty(x0.shape)
