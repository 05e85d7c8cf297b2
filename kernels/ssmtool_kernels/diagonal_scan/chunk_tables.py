"""What one chunk of time steps does to a diagonal system of one input and one output, as tables; see `native.c`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class ChunkTables(NamedTuple):
    """Real and imaginary parts on the axis of two, modes padded with zeros to N.

    Attributes:
        power: (S, 2, Q + 1, N), lam^e.
        inward: (S, 2, Q, N), lam^e B: what an input adds to the state e steps later.
        outward: (S, 2, Q, N), C lam^(j+1): what the state before a chunk adds to its output j, by the real part.
        kernel: (S, Q), Re C lam^e B, and D at e = 0: what an input adds to the output e steps later.
    """

    power: Tensor
    inward: Tensor
    outward: Tensor
    kernel: Tensor


def chunk_tables(lam: Tensor, B: Tensor, C: Tensor, D: Tensor, steps: int, width: int) -> ChunkTables:
    """Tables of the dtype of D, computed in double, differentiable.

    Args:
        lam, B, C: (S, n) complex.  D: (S,).
        steps: Q, of a chunk.
        width: N, at least n.
    """
    exact, b, c = (z.to(torch.complex128) for z in (lam, B, C))
    powers = [torch.ones_like(exact), exact]
    while len(powers) <= steps:
        powers.append(powers[-1] * exact)
    power = torch.stack(powers, dim=1)
    kernel = (power[:, :-1] * (b * c)[:, None]).sum(-1).real
    direct = torch.nn.functional.pad(D.double()[:, None], (0, steps - 1))

    def packed(z: Tensor) -> Tensor:
        parts = torch.stack([z.real, z.imag], dim=1).to(D.dtype)
        return torch.nn.functional.pad(parts, (0, width - z.shape[-1])).contiguous()

    inward, outward = power[:, :-1] * b[:, None], power[:, 1:] * c[:, None]
    return ChunkTables(packed(power), packed(inward), packed(outward), (kernel + direct).to(D.dtype))
