"""A forward pass whose gradient times input is the relevance of MambaLRP.

What depends on the input twice is held fixed on one side, so that the relevance that reaches a layer's output equals
the relevance that leaves its input: steps, B and C of the scan and the root mean square of a norm are constants; SiLU
is its input times a constant; a gate's product gives half its relevance to either factor.

Source: Jafari et al., "MambaLRP: Explaining selective state space sequence models", NeurIPS 2024, section 4.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmtool.selective.forward import Trace, forward
from ssmtool.selective.language import LanguageModel
from ssmtool.selective.mixers import DiagonalMixer, Mixer, ScalarMixer
from ssmtool_kernels.selective_scan import selective_scan
from ssmtool_kernels.ssd import ssd

_BIASES = ("in_x_bias", "in_z_bias", "in_bias", "in_mlp_bias", "conv_bias", "out_bias")


def with_live_biases(model: LanguageModel) -> tuple[LanguageModel, list[Tensor]]:
    """The model with additive biases that collect gradients: what they are given is the relevance they absorb."""
    leaves: list[Tensor] = []

    def alive(mixer: Mixer) -> Mixer:
        changed = {}
        for name in _BIASES:
            value = getattr(mixer, name, None)
            if value is not None:
                changed[name] = value.detach().clone().requires_grad_(True)
                leaves.append(changed[name])
        return replace(mixer, **changed)

    mixers = {name: tuple(alive(mixer) for mixer in parts) for name, parts in model.mixers.items()}
    return replace(model, mixers=mixers), leaves


def logits(model: LanguageModel, embedded: Tensor) -> Tensor:
    """Logits (b, L, V) of embedded tokens (b, L, d): the values of the model, the gradients of the rules above."""
    x = embedded
    for name, weight in model.norms.items():
        normed = _norm(x, weight, model.eps)
        for mixer in model.mixers[name]:
            x = x + mix(mixer, normed)
    return F.linear(_norm(x, model.final_norm, model.eps), model.head)


def mix(mixer: Mixer, x: Tensor) -> Tensor:
    """What a mixer adds (b, L, d)."""
    if mixer.reverse:
        return mix(replace(mixer, reverse=False), x.flip(1)).flip(1)
    with torch.no_grad():
        trace = forward(mixer, x)[2]
    return _diagonal(mixer, x, trace) if isinstance(mixer, DiagonalMixer) else _scalar(mixer, x, trace)


def _diagonal(mixer: DiagonalMixer, x: Tensor, trace: Trace) -> Tensor:
    u = _silu(_convolve(F.linear(x, mixer.in_x, mixer.in_x_bias), mixer.conv, mixer.conv_bias))
    y, _ = selective_scan(u, trace.dt, -mixer.a_log.exp(), trace.B, trace.C, mixer.d_skip, None)
    if mixer.in_z is not None:
        y = _gated(y, _silu(F.linear(x, mixer.in_z, mixer.in_z_bias)))
    return F.linear(y, mixer.out, mixer.out_bias)


def _scalar(mixer: ScalarMixer, x: Tensor, trace: Trace) -> Tensor:
    inner, wide, heads = mixer.channels, mixer.in_b.shape[0], mixer.heads
    bias: list[Any] = [None] * 5
    if mixer.in_bias is not None:
        bias = list(mixer.in_bias.split([inner, inner, wide, wide, heads]))
    taps = None if mixer.conv is None else mixer.conv[:inner]
    shift = None if mixer.conv_bias is None else mixer.conv_bias[:inner]
    u = _silu(_convolve(F.linear(x, mixer.in_x, bias[1]), taps, shift)).reshape(*x.shape[:2], heads, -1)
    B, C = trace.B, trace.C
    if mixer.project_b is not None:
        B = torch.einsum("grn,blgn->blgr", mixer.project_b, B)
        C = torch.einsum("grn,blgn->blgr", mixer.project_c, C)
    y, _ = ssd(u, trace.dt, -mixer.a_log.exp(), B, C, mixer.d_skip, None)
    flat, gate = y.reshape(*x.shape[:2], inner), _silu(F.linear(x, mixer.in_z, bias[0]))
    if mixer.norm is not None and mixer.norm_before_gate:
        flat = _gated(_group_norm(flat, mixer), gate)
    else:
        flat = _gated(flat, gate)
        flat = flat if mixer.norm is None else _group_norm(flat, mixer)
    if mixer.in_mlp is not None:
        z0, x0 = F.linear(x, mixer.in_mlp, mixer.in_mlp_bias).chunk(2, dim=-1)
        flat = torch.cat([_gated(x0, _silu(z0)), flat], dim=-1)
    return F.linear(flat, mixer.out, mixer.out_bias)


def _convolve(x: Tensor, taps: Tensor | None, bias: Tensor | None) -> Tensor:
    """Causal depth-wise convolution of (b, L, channels)."""
    if taps is None:
        return x
    padded = F.pad(x.transpose(1, 2), (taps.shape[-1] - 1, 0))
    return F.conv1d(padded, taps[:, None], bias, groups=x.shape[2]).transpose(1, 2)


def _silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x).detach()


def _gated(x: Tensor, gate: Tensor) -> Tensor:
    """The product, half of whose gradient goes to each factor."""
    product = x * gate
    return 0.5 * product + 0.5 * product.detach()


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps).detach() * weight


def _group_norm(x: Tensor, mixer: ScalarMixer) -> Tensor:
    square = x.unflatten(-1, (mixer.norm_groups, -1)).square().mean(-1, keepdim=True)
    scale = torch.rsqrt(square + mixer.norm_eps).expand(*square.shape[:-1], x.shape[-1] // mixer.norm_groups)
    return x * scale.flatten(-2).detach() * mixer.norm
