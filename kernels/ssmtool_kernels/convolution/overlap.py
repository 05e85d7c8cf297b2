"""Causal convolution of a stream with a long kernel: overlap-save, and the inputs that the next call needs."""

from __future__ import annotations

import torch
from torch import Tensor

from ssmtool_kernels.checks import dimensions, same_kind, shaped
from ssmtool_kernels.convolution.lengths import fast_length


def fft_convolution(
    K: Tensor, u: Tensor, tail: Tensor | None = None, *, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """y[l] = sum_{j < T} K[j] u[l - j], channel by channel; inputs before u are those of `tail`.

    Args:
        K: (H, T) float32 or float64, T >= 1.
        u: (b, H, L), of K's dtype.
        tail: (b, H, T - 1) the inputs before u, as the call before returned them; 0 by default.
        chunk: outputs of one FFT of chunk + T - 1 points; by default at least 3 T, for which the FFT's work per output
            is near its least. Memory beyond inputs and outputs is that of a chunk.

    Returns:
        y (b, H, L), and the tail for the next call. Differentiable.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, or a chunk of no step.

    Source: overlap-save, Oppenheim & Schafer, Discrete-Time Signal Processing, section 8.7.3.
    """
    channels, taps = dimensions("K", K, "H, T")
    batch, _, length = dimensions("u", u, "b, H, L")
    shaped("u", u, batch, channels, length, letters="(b, H, L)")
    shaped("tail", tail, batch, channels, taps - 1, letters="(b, H, T - 1)")
    same_kind("K", K, u=u, tail=tail)
    if K.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"K is {K.dtype}: float32 or float64 is needed")
    if chunk is not None and chunk < 1:
        raise ValueError(f"a chunk of {chunk} steps")
    wanted = max(3 * taps, 1024) if chunk is None else chunk
    points = fast_length(max(1, min(wanted, length)) + taps - 1)
    fresh = points - taps + 1  # outputs of a chunk that no wrapped input reaches
    old = u.new_zeros((batch, channels, taps - 1)) if tail is None else tail
    spectrum = torch.fft.rfft(K, n=points)
    outputs = []
    for first in range(0, length, fresh):
        part = u[..., first : first + fresh]
        seen = torch.cat([old, part], dim=-1)
        made = torch.fft.irfft(spectrum * torch.fft.rfft(seen, n=points), n=points)
        outputs.append(made[..., taps - 1 : taps - 1 + part.shape[-1]])
        old = seen[..., part.shape[-1] :]
    return (torch.cat(outputs, dim=-1) if outputs else torch.zeros_like(u)), old.clone()
