"""A chunk of Q steps as matrix products, and the recurrence from chunk to chunk.

With X the state before a chunk, modes as pairs of real numbers, and U its Q inputs,

    Y = U T + X W,    X' = lam^Q X + U V,

T the Toeplitz matrix of the kernel, V what inputs do to the state, W what the state does to outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SIZE = 64  # steps of a chunk: as much work within a chunk as with the states of 32 modes


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


def chunk(table: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Chunk:
    """The matrices of the powers (H, n, Q + 1) of the eigenvalues, B, C (H, n) complex, D (H,) real. Differentiable."""
    size = table.shape[-1] - 1
    K = ((C * B)[:, None] @ table[..., :size])[:, 0].real
    steps = torch.arange(size, device=table.device)
    lag = steps - steps[:, None]
    T = torch.where(lag >= 0, K[:, lag.clamp(min=0)], K.new_zeros(()))
    V = (B[..., None] * table[..., :size].flip(-1)).mT.contiguous()
    W = C[..., None] * table[..., 1:]
    return Chunk(
        T=T + torch.diag_embed(D[:, None].expand(-1, size)),
        V=torch.view_as_real(V).flatten(-2),
        W=torch.view_as_real(W.conj().resolve_conj()).mT.flatten(1, 2),
        decay=table[..., size],
    )


def chunked_scan(table: Tensor, B: Tensor, C: Tensor, D: Tensor, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """y and the last state of x[k] = lam x[k-1] + B u[k], y[k] = Re sum(C x[k]) + D u[k], differentiable by autograd.

    Args:
        table: (H, n, Q + 1) powers of the eigenvalues.  B, C: (H, n) complex.  D: (H,) real.
        u: (b, H, L) real.  x: (b, H, n) complex.

    Returns:
        (b, H, L), (b, H, n).
    """
    rest = u.shape[2] % (table.shape[-1] - 1)
    whole = u.shape[2] - rest
    parts = []
    if whole:
        y, x = scan_chunks(chunk(table, B, C, D), u[..., :whole], x)
        parts.append(y)
    if rest:
        y, x = scan_chunks(chunk(table[..., : rest + 1], B, C, D), u[..., whole:], x)
        parts.append(y)
    return (torch.cat(parts, dim=-1) if len(parts) == 2 else parts[0] if parts else torch.zeros_like(u)), x


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
