"""Mixers made by hand, whose scan is known in closed form, and random ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ssmtool.analyses._contract import Pass, Seen
from ssmtool.selective.forward import forward
from ssmtool.selective.mixers import DiagonalMixer, Mixer, ScalarMixer, to_torch


def random_diagonal(
    inner: int = 6, states: int = 3, width: int = 4, rank: int = 2, groups: int = 1, seed: int = 0
) -> DiagonalMixer:
    """A Mamba-1 mixer with every part, weights of order one."""
    rng = np.random.default_rng(seed)
    part = inner // groups
    return DiagonalMixer(
        x_dt=rng.normal(size=(groups, rank, part)),
        x_b=rng.normal(size=(groups, states, part)),
        x_c=rng.normal(size=(groups, states, part)),
        dt_weight=rng.normal(size=(groups, part, rank)),
        dt_bias=rng.normal(size=inner) - 1,
        a_log=rng.normal(size=(inner, states)),
        d_skip=rng.normal(size=inner),
        in_x=rng.normal(size=(inner, width)),
        in_z=rng.normal(size=(inner, width)),
        conv=rng.normal(size=(inner, 3)),
        conv_bias=rng.normal(size=inner),
        out=rng.normal(size=(width, inner)),
    )


def random_scalar(
    heads: int = 4, head: int = 2, states: int = 5, width: int = 6, groups: int = 2, seed: int = 0
) -> ScalarMixer:
    """A Mamba-2 mixer with every part, weights of order one."""
    rng = np.random.default_rng(seed)
    inner, wide = heads * head, groups * states
    return ScalarMixer(
        in_z=rng.normal(size=(inner, width)),
        in_x=rng.normal(size=(inner, width)),
        in_b=rng.normal(size=(wide, width)),
        in_c=rng.normal(size=(wide, width)),
        in_dt=rng.normal(size=(heads, width)),
        conv=rng.normal(size=(inner + 2 * wide, 3)),
        conv_bias=rng.normal(size=inner + 2 * wide),
        a_log=rng.normal(size=heads),
        dt_bias=rng.normal(size=heads) - 1,
        d_skip=rng.normal(size=(heads, 1)),
        out=rng.normal(size=(width, inner)),
        groups=groups,
        norm=rng.normal(size=inner),
        norm_groups=2,
    )


def constant(rates: list[list[float]], step: float) -> DiagonalMixer:
    """A Mamba-1 mixer that takes the same step and sees the same u, B and C = 1 at every token, whatever it reads.

    rates: a (E, N). Its h after t tokens is step * sum_{k<t} exp(-step a k) per unit of u B, with u = 1.
    """
    a = np.asarray(rates, float)
    inner, states = a.shape
    one = 1.2784645427610738  # silu(one) = 1
    rows = np.full((1, states, inner), 1.0 / inner)
    return DiagonalMixer(
        x_dt=np.zeros((1, 1, inner)),
        x_b=rows,
        x_c=rows,
        dt_weight=np.zeros((1, inner, 1)),
        dt_bias=np.full(inner, np.log(np.expm1(step))),
        a_log=np.log(a),
        d_skip=np.zeros(inner),
        in_x=np.zeros((inner, 2)),
        in_x_bias=np.full(inner, one),
        out=np.ones((2, inner)),
    )


def permuted(mixer: Mixer, order: np.ndarray) -> Mixer:
    """The same mixer with its states in another order (in every group)."""
    if isinstance(mixer, DiagonalMixer):
        return replace(mixer, x_b=mixer.x_b[:, order], x_c=mixer.x_c[:, order], a_log=mixer.a_log[:, order])
    rows = (np.arange(mixer.groups)[:, None] * mixer.states + order).ravel()
    inner, wide = mixer.channels, len(rows)
    taps = np.concatenate([np.arange(inner), inner + rows, inner + wide + rows])
    return replace(
        mixer, in_b=mixer.in_b[rows], in_c=mixer.in_c[rows], conv=mixer.conv[taps], conv_bias=mixer.conv_bias[taps]
    )


def shown(mixer: Mixer, x: torch.Tensor, tokens: torch.Tensor | None = None) -> Seen:
    """What an observer sees of a layer "m" that reads x (b, L, d)."""
    ready = to_torch(mixer, torch.float64)
    out, _, trace = forward(ready, x)
    ids = torch.zeros(x.shape[:2], dtype=torch.long) if tokens is None else tokens
    return Seen("m", ids, x, out, {"m": Pass(ready, trace, out)})


def stream(batch: int = 3, length: int = 20, width: int = 4, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, width, generator=generator, dtype=torch.float64)
