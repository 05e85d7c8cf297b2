"""The scan with constant diagonal on every backend."""

from __future__ import annotations

import torch
from torch import Tensor

from ssmtool_kernels.backends import resolve
from ssmtool_kernels.block_scan.pairs import pair_scan
from ssmtool_kernels.checks import dimensions, same_kind, shaped
from ssmtool_kernels.diagonal_states.naive import diagonal_states_naive
from ssmtool_kernels.segments import each_sequence, offsets, resets_of


def diagonal_states(
    lam: Tensor,
    v: Tensor,
    x0: Tensor | None = None,
    *,
    resets: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """x[t] = lam x[t-1] + v[t], elementwise, lam constant in time (S5, LRU).

    Args:
        lam: (n,) float32, float64 or complex. float16 and bfloat16 are computed in float32.
        v: (b, L, n), of lam's dtype.
        x0: (b, n) state before the first step; 0 by default. (k, n) for packed sequences.
        resets: (b, L) bool: the state is set to 0 before step t where resets[:, t].
        cu_seqlens: (k + 1,) integers: k sequences packed along time in a batch of 1, as many states in and out.
        backend: see `ssmtool_kernels.backends`.

    Returns:
        x (b, L, n), and the last state (b, n) or (k, n). Differentiable once in lam, v, x0.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit.
        BackendError: the backend cannot run here.
    """
    n = dimensions("lam", lam, "n")[0]
    batch, length = dimensions("v", v, "b, L, n")[:2]
    shaped("v", v, batch, length, n, letters="(b, L, n)")
    same_kind("lam", lam, v=v, x0=x0)
    bounds = offsets(batch, length, cu_seqlens, lam.device)
    count = len(bounds) - 1
    shaped("x0", x0, count, n, letters="(sequences, n)")
    mask = resets_of(resets, batch, length, lam.device)
    chosen = resolve(backend, lam)
    if chosen in ("naive", "torch"):
        if cu_seqlens is None:
            return diagonal_states_naive(lam, v, x0, mask)
        return each_sequence(lambda v, m, x: diagonal_states_naive(lam, v, x, m), (v, mask), x0, cu_seqlens)
    dtype = v.dtype
    work = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
    state = v.new_zeros((count, n), dtype=work) if x0 is None else x0.to(work)
    on, off = as_blocks(lam.to(work)[None])
    x, last = pair_scan(
        on,
        off,
        reals(v.to(work)).flatten(0, 1),
        reals(state),
        None if mask is None else mask.view(-1),
        bounds,
        chosen,
    )
    if not lam.is_complex():
        return x.view(v.shape).to(dtype), last.to(dtype)
    return torch.view_as_complex(x.view(*v.shape, 2)), torch.view_as_complex(last.view(*state.shape, 2))


def as_blocks(lam: Tensor) -> tuple[Tensor, Tensor | None]:
    """`on` and `off` of `pair_scan` for eigenvalues (groups, n): (groups, n), None; if complex (groups, 2 n) each."""
    if not lam.is_complex():
        return lam, None
    on = torch.stack([lam.real, lam.real], -1).flatten(1)
    return on, torch.stack([-lam.imag, lam.imag], -1).flatten(1)


def reals(tensor: Tensor) -> Tensor:
    """(..., n) complex as (..., 2 n) real; real tensors as they are."""
    return torch.view_as_real(tensor.resolve_conj()).flatten(-2) if tensor.is_complex() else tensor
