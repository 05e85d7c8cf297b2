"""The selective scan step by step on tensors that stay in cache, and a backward pass written by hand.

Autograd would record every operation of every step, and doing everything but the recurrence for all steps at once
streams (L, b, E, N) tensors through memory: both measured several times slower.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssmtool_kernels.selective_scan.naive import step_sizes


class _Scan(torch.autograd.Function):
    """Time first: dt, x (L, b, E); A (N, E); B, C (L, b, N); h0 (b, N, E); fresh (L, b, 1, 1) bool or None.

    Returns y (L, b, E), last state (b, N, E).
    """

    @staticmethod
    def forward(
        ctx: Any, dt: Tensor, x: Tensor, A: Tensor, B: Tensor, C: Tensor, h0: Tensor, fresh: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        length = x.shape[0]
        keep = any(ctx.needs_input_grad)
        states = h0.new_empty((length if keep else 1, *h0.shape))
        y, driven = torch.empty_like(x), dt * x
        decay, h = torch.empty_like(h0), h0
        for t in range(length):
            torch.mul(dt[t, :, None], A, out=decay).exp_()
            if fresh is not None:
                h = h.masked_fill(fresh[t], 0)
            h = torch.mul(decay, h, out=states[t if keep else 0])
            h.addcmul_(B[t, :, :, None], driven[t, :, None])
            torch.bmm(C[t, :, None], h, out=y[t, :, None])
        ctx.save_for_backward(dt, x, A, B, C, h0, states, fresh)
        return y, h.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, last: Tensor) -> tuple[Tensor | None, ...]:
        dt, x, A, B, C, h0, states, fresh = ctx.saved_tensors
        length = x.shape[0]
        driven, decay, lost = dt * x, torch.empty_like(h0), torch.empty_like(h0)
        d_driven, d_dt, dB, dC = (torch.empty_like(like) for like in (x, dt, B, C))
        dA = torch.zeros_like(h0)
        g = last.clone()
        for t in range(length - 1, -1, -1):
            g.addcmul_(C[t, :, :, None], dy[t, :, None])
            torch.bmm(states[t], dy[t, :, :, None], out=dC[t, :, :, None])
            torch.bmm(g, driven[t, :, :, None], out=dB[t, :, :, None])
            torch.bmm(B[t, :, None], g, out=d_driven[t, :, None])
            g.mul_(torch.mul(dt[t, :, None], A, out=decay).exp_())
            if fresh is not None:
                g.masked_fill_(fresh[t], 0)
            torch.mul(g, states[t - 1] if t else h0, out=lost)
            dA.addcmul_(lost, dt[t, :, None])
            torch.sum(lost.mul_(A), dim=1, out=d_dt[t])
        return d_dt.addcmul_(d_driven, x), d_driven * dt, dA.sum(0), dB, dC, g, None


def selective_scan_stepwise(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    h0: Tensor | None = None,
    *,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    resets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The same as `selective_scan_naive`, differentiable once; keeps one (L, b, E, N) tensor for the backward pass."""
    batch, _, channels = x.shape
    groups, states = B.shape[2:]
    width = channels // groups
    dt = step_sizes(dt, dt_bias, dt_softplus)
    fresh = None if resets is None else resets.mT[..., None, None]
    if h0 is None:
        h0 = x.new_zeros(batch, channels, states)
    outputs, last = [], []
    for g in range(groups):
        part = slice(g * width, (g + 1) * width)
        y, h = _Scan.apply(  # pyright: ignore[reportGeneralTypeIssues]
            dt[..., part].transpose(0, 1).contiguous(),
            x[..., part].transpose(0, 1).contiguous(),
            A[part].mT.contiguous(),
            B[:, :, g].transpose(0, 1).contiguous(),
            C[:, :, g].transpose(0, 1).contiguous(),
            h0[:, part].mT.contiguous(),
            fresh,
        )
        outputs.append(y.transpose(0, 1))
        last.append(h.mT)
    y = torch.cat(outputs, dim=-1)
    if D is not None:
        y = y + D * x
    return (y if z is None else y * F.silu(z)), torch.cat(last, dim=1)
