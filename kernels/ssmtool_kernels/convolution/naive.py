"""Convolutions with and without a state exactly as they are defined."""

from __future__ import annotations

import torch
from torch import Tensor


def diagonal_naive(
    a: Tensor, B: Tensor, C: Tensor, D: Tensor, u: Tensor, x0: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """x[k] = exp(a) x[k-1] + B u[k], y[k] = Re(C x[k]) + D u[k]; shapes of `state_passing_convolution`, batched."""
    lam = torch.exp(a)
    x = lam.new_zeros((u.shape[0], *lam.shape)) if x0 is None else x0
    outputs = []
    for k in range(u.shape[2]):
        x = lam * x + torch.einsum("snm,bsm->bsn", B, u[:, :, k].to(B.dtype))
        outputs.append(torch.einsum("spn,bsn->bsp", C, x).real + torch.einsum("spm,bsm->bsp", D, u[:, :, k]))
    if not outputs:
        return u.new_zeros((*u.shape[:3], D.shape[1])), x
    return torch.stack(outputs, dim=2), x


def kernel_naive(K: Tensor, u: Tensor, tail: Tensor) -> Tensor:
    """y[l] = sum_j K[j] u[l - j], tail before u; shapes of `fft_convolution`."""
    padded = torch.cat([tail, u], dim=2)
    taps = K.shape[1]
    terms = [K[:, j, None] * padded[:, :, taps - 1 - j : padded.shape[2] - j] for j in range(taps)]
    return torch.stack(terms).sum(0)
