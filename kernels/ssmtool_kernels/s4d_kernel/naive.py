"""The convolution kernel of a diagonal system exactly as it is defined."""

from __future__ import annotations

import torch
from torch import Tensor


def s4d_kernel_naive(a: Tensor, c: Tensor, length: int) -> Tensor:
    """K[h, l] = Re sum_n c[h, n] exp(a[h, n] l), one exponential for every h, n, l, in double precision.

    Args:
        a, c: (H, n) complex.

    Returns:
        (H, length) real, of the precision of a.
    """
    steps = torch.arange(length, dtype=torch.float64, device=a.device)
    terms = c.to(torch.complex128)[..., None] * torch.exp(a.to(torch.complex128)[..., None] * steps)
    return terms.sum(1).real.to(a.real.dtype)
