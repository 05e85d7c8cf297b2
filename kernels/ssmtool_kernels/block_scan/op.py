"""The scan with 2 x 2 blocks on every backend."""

from __future__ import annotations

import torch
from torch import Tensor

from ssmtool_kernels.backends import resolve
from ssmtool_kernels.block_scan.naive import block_scan_naive
from ssmtool_kernels.block_scan.pairs import pair_scan
from ssmtool_kernels.checks import dimensions, same_kind, shaped
from ssmtool_kernels.segments import each_sequence, offsets, resets_of


def block_scan(
    A: Tensor,
    v: Tensor,
    x0: Tensor | None = None,
    *,
    resets: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """x[t] = A x[t-1] + v[t] with n real 2 x 2 blocks that are constant in time, such as rotations.

    Args:
        A: (n, 2, 2) float32 or float64. float16 and bfloat16 are computed in float32.
        v: (b, L, n, 2), of A's dtype.
        x0: (b, n, 2) state before the first step; 0 by default. (k, n, 2) for packed sequences.
        resets: (b, L) bool: the state is set to 0 before step t where resets[:, t].
        cu_seqlens: (k + 1,) integers: k sequences packed along time in a batch of 1, as many states in and out.
        backend: see `ssmtool_kernels.backends`.

    Returns:
        x (b, L, n, 2), and the last state (b, n, 2) or (k, n, 2). Differentiable once in A, v, x0.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit.
        BackendError: the backend cannot run here.
    """
    n = dimensions("A", A, "n, 2, 2")[0]
    shaped("A", A, n, 2, 2, letters="(n, 2, 2)")
    batch, length = dimensions("v", v, "b, L, n, 2")[:2]
    shaped("v", v, batch, length, n, 2, letters="(b, L, n, 2)")
    same_kind("A", A, v=v, x0=x0)
    if not A.is_floating_point():
        raise ValueError(f"A is {A.dtype}: real floating-point numbers are needed")
    bounds = offsets(batch, length, cu_seqlens, A.device)
    count = len(bounds) - 1
    shaped("x0", x0, count, n, 2, letters="(sequences, n, 2)")
    mask = resets_of(resets, batch, length, A.device)
    chosen = resolve(backend, A)
    if chosen in ("naive", "torch"):
        if cu_seqlens is None:
            return block_scan_naive(A, v, x0, mask)
        return each_sequence(lambda v, m, x: block_scan_naive(A, v, x, m), (v, mask), x0, cu_seqlens)
    dtype = v.dtype
    work = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
    state = v.new_zeros((count, n, 2), dtype=work) if x0 is None else x0.to(work)
    blocks = A.to(work)
    x, last = pair_scan(
        torch.stack([blocks[:, 0, 0], blocks[:, 1, 1]], -1).view(1, -1),
        torch.stack([blocks[:, 0, 1], blocks[:, 1, 0]], -1).view(1, -1),
        v.to(work).flatten(2).flatten(0, 1),
        state.flatten(1),
        None if mask is None else mask.view(-1),
        bounds,
        chosen,
    )
    return x.view(v.shape).to(dtype), last.view(state.shape).to(dtype)
