"""FFT convolutions: with a given kernel, or mode by mode for systems with many inputs and outputs."""

from __future__ import annotations

import torch
from torch import Tensor


def kernel_convolution(kernel: Tensor, u: Tensor) -> Tensor:
    """y[k] = sum_{j <= k} kernel[j] u[k - j].

    Args:
        kernel: (S, p, m, L) real, feedthrough included at lag 0.
        u: (S, L, m) real.

    Returns:
        (S, L, p) real.
    """
    length = u.shape[1]
    spectrum = torch.fft.rfft(kernel, n=2 * length)
    driven = torch.fft.rfft(u.mT, n=2 * length)
    y = torch.fft.irfft(torch.einsum("spmf,smf->spf", spectrum, driven), n=2 * length)
    return y[..., :length].mT


def diagonal_convolution(a: Tensor, B: Tensor, C: Tensor, D: Tensor, u: Tensor) -> Tensor:
    """The outputs of `diagonal_scan` by convolving every mode's input with the powers of its eigenvalue.

    Args:
        a: (S, n) complex logarithms of the eigenvalues.
        B: (S, n, m), C: (S, p, n) complex.  D: (S, p, m) real.  u: (S, L, m) real.

    Returns:
        (S, L, p) real.
    """
    length = u.shape[1]
    steps = torch.arange(length, dtype=a.real.dtype, device=a.device)
    powers = torch.exp(a[:, :, None] * steps)
    driven = (u.to(a.dtype) @ B.mT).mT
    size = 2 * length
    x = torch.fft.ifft(torch.fft.fft(powers, n=size) * torch.fft.fft(driven, n=size))[..., :length]
    return (C @ x).real.mT + u @ D.mT
