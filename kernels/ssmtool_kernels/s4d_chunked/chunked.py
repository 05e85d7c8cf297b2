"""A chunk of Q steps as matrix products, and the recurrence from chunk to chunk.

With X the state before a chunk, modes as pairs of real numbers, and U its Q inputs,

    Y = U T + X W,    X' = lam^Q X + U V,

T the Toeplitz matrix of the kernel, V what inputs do to the state, W what the state does to outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssmtool_kernels.s4d_kernel.two_level import powers


@dataclass(frozen=True)
class Chunk:
    """The matrices of a chunk of Q steps for H systems with n modes.

    Attributes:
        T: (H, Q, Q) real, T[j, r] = K[r - j], feedthrough on the diagonal.
        V: (H, Q, 2n) real.
        W: (H, 2n, Q) real.
        decay: (H, n) complex, lam^Q.
    """

    T: Tensor
    V: Tensor
    W: Tensor
    decay: Tensor


def chunk(a: Tensor, B: Tensor, C: Tensor, D: Tensor, size: int) -> Chunk:
    """The matrices of a, B, C (H, n) complex, D (H,) real, of their precision. Differentiable."""
    table = powers(a, size + 1)
    K = ((C * B)[:, None] @ table[..., :size])[:, 0].real
    steps = torch.arange(size, device=a.device)
    lag = steps - steps[:, None]
    T = torch.where(lag >= 0, K[:, lag.clamp(min=0)], torch.zeros((), dtype=K.dtype, device=a.device))
    V = (B[..., None] * table[..., :size].flip(-1)).mT.contiguous()
    W = C[..., None] * table[..., 1:]
    return Chunk(
        T=T + torch.diag_embed(D[:, None].expand(-1, size)),
        V=torch.view_as_real(V).flatten(-2),
        W=torch.view_as_real(W.conj().resolve_conj()).mT.flatten(1, 2),
        decay=table[..., size],
    )


def scan_chunks(matrices: Chunk, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs and last state of whole chunks.

    Args:
        u: (b, H, M Q) real.
        x: (b, H, n) complex.

    Returns:
        y (b, H, M Q), and the state (b, H, n) after them.
    """
    batch, systems, length = u.shape
    size = matrices.T.shape[1]
    rows = u.transpose(0, 1).reshape(systems, -1, size)  # (H, b M, Q)
    driven = torch.view_as_complex((rows @ matrices.V).view(systems, batch, length // size, -1, 2))
    state, states = x.transpose(0, 1), []
    decay = matrices.decay[:, None]
    for drive in driven.unbind(2):
        states.append(state)
        state = torch.addcmul(drive, decay, state)
    before = torch.view_as_real(torch.stack(states, dim=2)).view(systems, rows.shape[1], -1)
    y = torch.baddbmm(rows @ matrices.T, before, matrices.W)
    return y.view(systems, batch, length).transpose(0, 1), state.transpose(0, 1)
