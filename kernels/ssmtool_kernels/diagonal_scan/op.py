"""The diagonal scan on every backend."""

from __future__ import annotations

import torch
from torch import Tensor

from ssmtool_kernels.backends import resolve
from ssmtool_kernels.case import COMPLEX
from ssmtool_kernels.checks import dimensions, same_kind, shaped
from ssmtool_kernels.convolution.state_passing import state_passing_convolution
from ssmtool_kernels.diagonal_scan.mimo import mimo_scan
from ssmtool_kernels.diagonal_scan.naive import diagonal_scan_naive
from ssmtool_kernels.diagonal_scan.siso import siso_scan
from ssmtool_kernels.diagonal_scan.tables import tables_scan
from ssmtool_kernels.s4d_chunked.chunked import SIZE, chunked_scan
from ssmtool_kernels.s4d_kernel.two_level import powers_of
from ssmtool_kernels.segments import each_sequence, offsets, resets_of


def diagonal_scan(
    lam: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    u: Tensor,
    x0: Tensor | None = None,
    *,
    resets: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """x[t] = lam x[t-1] + B u[t],  y[t] = Re(C x[t]) + D u[t] of S systems at once (S4D; S5 and the LRU with S = 1).

    With one input and one output (m = p = 1) no state is written. Otherwise states exist for a chunk of time only.
    In float32, for modes as slow as |lam| = 0.9999 and long inputs, outputs of one input are within 1e-6 (relative L2)
    of float64 for the same float32 numbers in C, and 1e-5 in Triton, which rounds the powers of lam to float32.

    Args:
        lam: (S, n) complex64 or complex128, or real.  B: (S, n, m), C: (S, p, n), of lam's dtype.
        D: (S, p, m) real, of lam's precision.
        u: (S, L, m) or (b, S, L, m) real, of lam's precision, or float16 or bfloat16 with complex64.
        x0: (S, n) or (b, S, n), of lam's dtype: state before the first step; 0 by default. (k, S, n) if packed.
        resets: (b, L) bool, b = 1 for u without a batch: the state is set to 0 before step t where resets[:, t].
        cu_seqlens: (k + 1,) integers: k sequences packed along time in a batch of 1, as many states in and out.
        backend: see `ssmtool_kernels.backends`.

    Returns:
        y (S, L, p) or (b, S, L, p) of u's dtype, and the last state: (S, n), (b, S, n), or (k, S, n) if packed.
        Differentiable once in lam, B, C, D, u, x0.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit.
        BackendError: the backend cannot run here.
    """
    if not lam.is_complex():
        kind = COMPLEX.get(lam.dtype, torch.complex64)
        lam, B, C = lam.to(kind), B.to(kind), C.to(kind)
        state = None if x0 is None else x0.to(kind)
        y, last = diagonal_scan(lam, B, C, D, u, state, resets=resets, cu_seqlens=cu_seqlens, backend=backend)
        return y, last.real
    if u.ndim == 3:
        single = x0 if x0 is None or cu_seqlens is not None else x0[None]
        y, last = diagonal_scan(lam, B, C, D, u[None], single, resets=resets, cu_seqlens=cu_seqlens, backend=backend)
        return y[0], last if cu_seqlens is not None else last[0]
    systems, n = dimensions("lam", lam, "S, n")
    batch, _, length, inputs = dimensions("u", u, "b, S, L, m")
    outputs = dimensions("D", D, "S, p, m")[1]
    shaped("u", u, batch, systems, length, inputs, letters="(b, S, L, m)")
    shaped("B", B, systems, n, inputs, letters="(S, n, m)")
    shaped("C", C, systems, outputs, n, letters="(S, p, n)")
    shaped("D", D, systems, outputs, inputs, letters="(S, p, m)")
    same_kind("lam", lam, B=B, C=C, x0=x0)
    work = torch.float64 if lam.dtype == torch.complex128 else torch.float32
    small = (torch.float16, torch.bfloat16) if work == torch.float32 else ()
    for name, tensor in (("u", u), ("D", D)):
        if tensor.dtype not in (work, *small):
            raise ValueError(f"{name} is {tensor.dtype}, and lam is {lam.dtype}: {name} has to be {work}")
        if tensor.device != lam.device:
            raise ValueError(f"{name} is on {tensor.device}, lam on {lam.device}")
    bounds = offsets(batch, length, cu_seqlens, u.device)
    count = len(bounds) - 1
    shaped("x0", x0, count, systems, n, letters="(sequences, S, n)")
    mask = resets_of(resets, batch, length, u.device)
    dtype, u, D = u.dtype, u.to(work), D.to(work)
    chosen = resolve(backend, u)
    state = lam.new_zeros((count, systems, n)) if x0 is None else x0
    if chosen == "torch" and inputs == outputs == 1 and mask is None and cu_seqlens is None:
        y, last = chunked_scan(powers_of(lam, SIZE + 1), B[..., 0], C[:, 0], D[:, 0, 0], u[..., 0], state)
        return y[..., None].to(dtype), last
    if chosen == "torch" and mask is None and cu_seqlens is None and bool((lam != 0).all()):
        y, last = _by_convolution(lam, B, C, D, u, state)
        return y.to(dtype), last
    if chosen in ("naive", "torch"):
        y, last = _stepwise(lam, B, C, D, u, state, mask, cu_seqlens)
        return y.to(dtype), last
    if inputs == outputs == 1:
        scan = tables_scan if chosen == "triton" else siso_scan
        y, last = scan(lam, B[..., 0], C[:, 0], D[:, 0, 0], u[..., 0], state, mask, bounds)
        y = y[..., None]
    else:
        y, last = mimo_scan(lam, B, C, D, u, state, mask, bounds, chosen)
    return y.to(dtype), last


def _by_convolution(lam: Tensor, B: Tensor, C: Tensor, D: Tensor, u: Tensor, x0: Tensor) -> tuple[Tensor, Tensor]:
    """In float64: the logarithm of a slow eigenvalue in float32 has too few digits for a long scan."""
    a, b, c, x = (z.to(torch.complex128) for z in (lam, B, C, x0))
    y, last = state_passing_convolution(torch.log(a), b, c, D.double(), u.double(), x)
    return y.to(u.dtype), last.to(lam.dtype)


def _stepwise(
    lam: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    u: Tensor,
    x0: Tensor | None,
    resets: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    if cu_seqlens is None:
        return diagonal_scan_naive(lam, B, C, D, u, x0, resets)

    def scan(u: Tensor, resets: Tensor | None, x0: Tensor | None) -> tuple[Tensor, Tensor]:
        y, last = diagonal_scan_naive(lam, B, C, D, u.transpose(1, 2), x0, resets)
        return y.transpose(1, 2), last

    y, last = each_sequence(scan, (u.transpose(1, 2), resets), x0, cu_seqlens)
    return y.transpose(1, 2), last
