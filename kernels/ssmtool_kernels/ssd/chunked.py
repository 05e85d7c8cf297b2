"""The scan of Mamba-2 as matrix products within chunks and a recurrence between them (Dao and Gu, 2024, section 6)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def ssd_chunked(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    h0: Tensor | None = None,
    resets: Tensor | None = None,
    chunk: int = 64,
) -> tuple[Tensor, Tensor]:
    """The same as `ssd_naive` without its options, differentiable; `chunk` steps are done at once.

    Decays are exponentials of non-positive sums, never quotients, so that strong decay cannot overflow.
    """
    batch, length, heads, width = x.shape
    groups, states = B.shape[2:]
    if length == 0:
        return torch.zeros_like(x), x.new_zeros(batch, heads, width, states) if h0 is None else h0
    chunk = min(chunk, length)
    missing = -length % chunk
    count, share = (length + missing) // chunk, heads // groups
    # Padded steps have dt = 0: they neither decay nor drive the state.
    u = F.pad(x * dt[..., None], (0, 0, 0, 0, 0, missing)).view(batch, count, chunk, groups, share, width)
    b = F.pad(B, (0, 0, 0, 0, 0, missing)).view(batch, count, chunk, groups, states)
    c = F.pad(C, (0, 0, 0, 0, 0, missing)).view(batch, count, chunk, groups, states)
    total = F.pad(dt * A, (0, 0, 0, missing)).view(batch, count, chunk, groups, share).cumsum(2).permute(0, 1, 3, 4, 2)

    future = torch.ones(chunk, chunk, dtype=torch.bool, device=x.device).triu(1)
    from_start, to_end, through = total, total[..., -1:] - total, total[..., -1]
    if resets is not None:
        # The state passes from step j to step i if there are as many resets up to j as up to i.
        met = F.pad(resets, (0, missing)).view(batch, count, 1, 1, chunk).cumsum(-1)
        future = future | (met[..., :, None] != met[..., None, :])
        from_start = from_start.masked_fill(met > 0, -torch.inf)
        to_end = to_end.masked_fill(met != met[..., -1:], -torch.inf)
        through = through.masked_fill(met[..., -1] > 0, -torch.inf)
    spans = (total[..., :, None] - total[..., None, :]).masked_fill(future, -torch.inf)
    scores = torch.einsum("bkign,bkjgn->bkgij", c, b)
    y = torch.einsum("bkghij,bkjghp->bkighp", scores[:, :, :, None] * spans.exp(), u)

    added = torch.einsum("bkjgn,bkghj,bkjghp->bkghpn", b, to_end.exp(), u)
    keep = through.exp()[..., None, None]
    h = x.new_zeros(batch, groups, share, width, states) if h0 is None else h0.view(batch, groups, share, width, states)
    if resets is not None:
        h = torch.where(resets[:, :1, None, None, None], torch.zeros_like(h), h)
    before = []
    for k in range(count):
        before.append(h)
        h = keep[:, k] * h + added[:, k]
    y = y + torch.einsum("bkign,bkghpn,bkghi->bkighp", c, torch.stack(before, 1), from_start.exp())
    y = y.reshape(batch, count * chunk, heads, width)[:, :length]
    return (y if D is None else y + D * x), h.reshape(batch, heads, width, states)
