"""The convolution kernel of a diagonal system on every backend, registered with PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssmtool_kernels.backends import resolve
from ssmtool_kernels.checks import dimensions, same_kind, shaped
from ssmtool_kernels.s4d_kernel.naive import s4d_kernel_naive
from ssmtool_kernels.s4d_kernel.two_level import collect, expand, tables


def s4d_kernel(a: Tensor, c: Tensor, length: int, *, backend: str = "auto") -> Tensor:
    """K[h, l] = Re sum_n c[h, n] exp(a[h, n] l), l = 0 … length - 1.

    Args:
        a: (H, n) logarithms of the eigenvalues, complex64 or complex128.
        c: (H, n) weights of the modes (C B for one input and output), of a's dtype.
        length: L.
        backend: see `ssmtool_kernels.backends`. There is no C source: on the CPU two batches of matrix products in
            PyTorch are the fast form, and `cpu` means those.

    Returns:
        (H, L) real. Differentiable once in a and c.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit.
        BackendError: the backend cannot run here.

    Source: the Vandermonde product of S4D (Gu et al. 2022, section 3.3) with the powers factored in two levels.
    """
    systems, n = dimensions("a", a, "H, n")
    shaped("c", c, systems, n, letters="(H, n)")
    same_kind("a", a, c=c)
    if not a.is_complex():
        raise ValueError(f"a is {a.dtype}: complex logarithms of eigenvalues are needed")
    if length < 0:
        raise ValueError(f"length is {length}")
    chosen = plain(backend, a)
    if chosen == "naive":
        return s4d_kernel_naive(a, c, length)
    return _kernel(a, c, length, chosen)


def plain(backend: str, tensor: Tensor) -> str:
    """The backend of an operation without C source: naive, torch or triton."""
    if backend == "cpu" or (backend == "auto" and tensor.device.type == "cpu"):
        return "torch"
    return resolve(backend, tensor)


@torch.library.custom_op("ssmtool::s4d_kernel", mutates_args=())
def _kernel(a: Tensor, c: Tensor, length: int, backend: str) -> Tensor:
    if backend == "triton" and a.numel() and length:
        from ssmtool_kernels.s4d_kernel import triton

        return triton.forward(a.contiguous(), c.contiguous(), length)
    return expand(tables(a, length), c[:, None])[:, 0].contiguous()


@_kernel.register_fake
def _(a: Tensor, c: Tensor, length: int, backend: str) -> Tensor:
    return a.new_empty((a.shape[0], length), dtype=a.real.dtype)


@torch.library.custom_op("ssmtool::s4d_kernel_backward", mutates_args=())
def _kernel_backward(a: Tensor, c: Tensor, lost: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    """da, dc. With m_k = sum_l l^k lost[l] conj(lam^l): dc = m_0, da = conj(c) m_1."""
    length = lost.shape[1]
    if backend == "triton" and a.numel() and length:
        from ssmtool_kernels.s4d_kernel import triton

        zeroth, first = triton.backward(a.contiguous(), lost.contiguous())
    else:
        steps = torch.arange(length, dtype=lost.dtype, device=lost.device)
        moments = collect(tables(a, length), torch.stack([lost, lost * steps], dim=1)).conj()
        zeroth, first = moments[:, 0], moments[:, 1]
    return (c.conj() * first).resolve_conj(), zeroth.resolve_conj().clone()


@_kernel_backward.register_fake
def _(a: Tensor, c: Tensor, lost: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    return a.new_empty(a.shape), c.new_empty(c.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], inputs[1])
    ctx.backend = inputs[3]


def _differentiate(ctx: Any, lost: Tensor) -> tuple[Any, ...]:
    return *_kernel_backward(*ctx.saved_tensors, lost, ctx.backend), None, None


_kernel.register_autograd(_differentiate, setup_context=_setup)
