"""What a selective mixer computes: prefill, continuation and single steps with one function."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmtool.errors import FamilyError
from ssmtool.selective.mixers import DiagonalMixer, Mixer, ScalarMixer
from ssmtool_kernels.convolution import short_convolution
from ssmtool_kernels.selective_scan import selective_scan
from ssmtool_kernels.ssd import ssd


@dataclass(frozen=True)
class Memory:
    """What a mixer carries from one call to the next.

    Attributes:
        tail: (b, K - 1, channels of the convolution) the last inputs of the convolution; None without one.
        h: (b, E, N) for Mamba-1, (b, H, P, N) for Mamba-2 (r in place of N when projected).
    """

    tail: Tensor | None
    h: Tensor


@dataclass(frozen=True)
class Trace:
    """The inputs and outputs of one call's scan, in the order in which the scan read them.

    Attributes:
        x: (b, L, E) for Mamba-1, (b, L, H, P) for Mamba-2: what drives the state, after convolution and SiLU.
        dt: (b, L, E) or (b, L, H), positive.
        B, C: (b, L, G, N) as computed, before any projection.
        z: (b, L, E) gate before its SiLU; None without a gate.
        y: like x, output of the scan with the D term.
        gain: (b, L, E): what the mixer multiplies a small change of y with before `out`: silu(z), and for Mamba-2 the
            norm's weight over its root mean square, which is held fixed.
    """

    x: Tensor
    dt: Tensor
    B: Tensor
    C: Tensor
    z: Tensor | None
    y: Tensor
    gain: Tensor


class Order(Protocol):
    """What comes before each of the L steps of a call: the two places where a mixer looks at other steps.

    Letters and shapes as in `Trace`; A is -exp(a_log), B and C are those the scan runs on.
    """

    def convolve(self, x: Tensor, mixer: Mixer, tail: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(b, L, channels) through the mixer's convolution and SiLU, and the tail for the next call."""
        ...

    def diagonal(
        self, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h0: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """y and the last state of a Mamba-1 scan."""
        ...

    def scalar(
        self, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h0: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """y and the last state of a Mamba-2 scan."""
        ...


class Sequence:
    """Step t follows step t - 1."""

    def convolve(self, x: Tensor, mixer: Mixer, tail: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return _convolve(x, mixer, tail)

    def diagonal(
        self, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h0: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        return selective_scan(x, dt, A, B, C, D, h0)

    def scalar(
        self, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h0: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        return ssd(x, dt, A, B, C, D, h0)


def forward(
    mixer: Mixer, x: Tensor, memory: Memory | None = None, order: Order | None = None
) -> tuple[Tensor, Memory, Trace]:
    """Run a mixer whose fields are tensors of x's dtype.

    Args:
        mixer: from `to_torch`.
        x: (b, L, d) hidden states, as the block hands them to its mixer.
        memory: of the call before; zeros by default.
        order: of the L steps; one after the other by default. Another needs a mixer that reads forwards.

    Returns:
        What the mixer adds (b, L, d), the memory after the last step, and the trace.

    Raises:
        FamilyError: a mixer without input projections, or memory given to a mixer that reads backwards.
    """
    if mixer.in_x is None:
        raise FamilyError("the scan's surroundings are not a sequence model: the layer cannot be run on tokens")
    if mixer.reverse:
        if memory is not None or order is not None:
            raise FamilyError("a mixer that reads backwards cannot continue from an earlier call")
        if isinstance(mixer, DiagonalMixer) and mixer.forward_conv:
            return _diagonal(mixer, x, None, Sequence())
        out, last, trace = forward(replace(mixer, reverse=False), x.flip(1))
        return out.flip(1), last, trace
    if isinstance(mixer, DiagonalMixer):
        return _diagonal(mixer, x, memory, order or Sequence())
    return _scalar(mixer, x, memory, order or Sequence())


def _diagonal(mixer: DiagonalMixer, x: Tensor, memory: Memory | None, order: Order) -> tuple[Tensor, Memory, Trace]:
    batch, length, _ = x.shape
    tail0, h0 = (None, None) if memory is None else (memory.tail, memory.h)
    u, tail = order.convolve(F.linear(x, mixer.in_x, mixer.in_x_bias), mixer, tail0)
    z = None if mixer.in_z is None else F.linear(x, mixer.in_z, mixer.in_z_bias)
    if mixer.reverse:  # behind a convolution in the input's own order
        u, z = u.flip(1), None if z is None else z.flip(1)
    grouped = u.reshape(batch, length, mixer.groups, -1)
    low, B, C = (torch.einsum("blge,gke->blgk", grouped, rows) for rows in (mixer.x_dt, mixer.x_b, mixer.x_c))
    low = _rms_norm(low, mixer.dt_norm, mixer.norm_eps)
    B, C = _rms_norm(B, mixer.b_norm, mixer.norm_eps), _rms_norm(C, mixer.c_norm, mixer.norm_eps)
    raw = torch.einsum("blgr,ger->blge", low, mixer.dt_weight).reshape(u.shape)
    dt = F.softplus(raw + mixer.dt_bias)
    y, h = order.diagonal(u, dt, -mixer.a_log.exp(), B, C, mixer.d_skip, h0)
    gain = torch.ones_like(y) if z is None else F.silu(z)
    out = F.linear(y * gain, mixer.out, mixer.out_bias)
    return out.flip(1) if mixer.reverse else out, Memory(tail, h), Trace(u, dt, B, C, z, y, gain)


def _scalar(mixer: ScalarMixer, x: Tensor, memory: Memory | None, order: Order) -> tuple[Tensor, Memory, Trace]:
    batch, length, _ = x.shape
    inner, wide, heads = mixer.channels, mixer.in_b.shape[0], mixer.heads
    bias: list[Any] = [None] * 5
    if mixer.in_bias is not None:
        bias = list(mixer.in_bias.split([inner, inner, wide, wide, heads]))
    z = F.linear(x, mixer.in_z, bias[0])
    rows = torch.cat([mixer.in_x, mixer.in_b, mixer.in_c])
    mixed = F.linear(x, rows, None if mixer.in_bias is None else torch.cat(bias[1:4]))
    tail0, h0 = (None, None) if memory is None else (memory.tail, memory.h)
    mixed, tail = order.convolve(mixed, mixer, tail0)
    u, B, C = mixed.split([inner, wide, wide], dim=-1)
    u = u.reshape(batch, length, heads, -1)
    B, C = (part.reshape(batch, length, mixer.groups, -1) for part in (B, C))
    dt = F.softplus(F.linear(x, mixer.in_dt, bias[4]) + mixer.dt_bias).clamp(mixer.dt_min, mixer.dt_max)
    scan_b, scan_c = B, C
    if mixer.project_b is not None:
        scan_b = torch.einsum("grn,blgn->blgr", mixer.project_b, B)
        scan_c = torch.einsum("grn,blgn->blgr", mixer.project_c, C)
    y, h = order.scalar(u, dt, -mixer.a_log.exp(), scan_b, scan_c, mixer.d_skip, h0)
    flat = y.reshape(batch, length, inner)
    gain = _gain(mixer, flat, F.silu(z))
    gated = flat * gain
    if mixer.in_mlp is not None:
        z0, x0 = F.linear(x, mixer.in_mlp, mixer.in_mlp_bias).chunk(2, dim=-1)
        gated = torch.cat([F.silu(z0) * x0, gated], dim=-1)
    return F.linear(gated, mixer.out, mixer.out_bias), Memory(tail, h), Trace(u, dt, B, C, z, y, gain)


def _gain(mixer: ScalarMixer, y: Tensor, gate: Tensor) -> Tensor:
    """What turns y into the input of `out`: gate, and the norm's weight over its root mean square."""
    if mixer.norm is None:
        return gate
    normed = y if mixer.norm_before_gate else y * gate
    square = normed.unflatten(-1, (mixer.norm_groups, -1)).square().mean(-1, keepdim=True)
    scale = torch.rsqrt(square + mixer.norm_eps).expand(*square.shape[:-1], y.shape[-1] // mixer.norm_groups)
    return gate * mixer.norm * scale.flatten(-2)


def _convolve(x: Tensor, mixer: Mixer, tail: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Causal depth-wise convolution and SiLU of (b, L, channels), with the tail the next call needs."""
    if mixer.conv is None:
        return F.silu(x), None
    mixed, following = short_convolution(x, mixer.conv, mixer.conv_bias, tail)
    return F.silu(mixed), following


def _rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    return x if weight is None else x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight
