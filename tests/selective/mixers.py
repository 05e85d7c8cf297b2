"""Small random mixers of every kind, and inputs for them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ssmtool.selective.mixers import DiagonalMixer, Mixer, ScalarMixer, to_torch


def diagonal(
    seed: int = 0, *, width: int = 6, channels: int = 8, states: int = 5, groups: int = 1, norms: bool = False
) -> DiagonalMixer:
    """Mamba-1, float64 numpy."""
    r = np.random.default_rng(seed)
    per, rank = channels // groups, 3
    mixer = DiagonalMixer(
        x_dt=r.normal(size=(groups, rank, per)),
        x_b=r.normal(size=(groups, states, per)),
        x_c=r.normal(size=(groups, states, per)),
        dt_weight=r.normal(size=(groups, per, rank)),
        dt_bias=r.normal(size=channels) - 1,
        a_log=r.normal(size=(channels, states)) - 1,
        d_skip=r.normal(size=channels),
        in_x=r.normal(size=(channels, width)),
        in_z=r.normal(size=(channels, width)),
        in_x_bias=r.normal(size=channels),
        in_z_bias=r.normal(size=channels),
        conv=r.normal(size=(channels, 4)),
        conv_bias=r.normal(size=channels),
        out=r.normal(size=(width, channels)),
        out_bias=r.normal(size=width),
    )
    if not norms:
        return mixer
    return replace(
        mixer,
        dt_norm=r.normal(size=rank),
        b_norm=r.normal(size=states),
        c_norm=r.normal(size=states),
        norm_eps=1e-5,
    )


def scalar(
    seed: int = 0, *, width: int = 6, heads: int = 4, head: int = 3, states: int = 5, groups: int = 2
) -> ScalarMixer:
    """Mamba-2 with everything a mixer can have, float64 numpy."""
    r = np.random.default_rng(seed)
    inner, wide = heads * head, groups * states
    return ScalarMixer(
        in_z=r.normal(size=(inner, width)),
        in_x=r.normal(size=(inner, width)),
        in_b=r.normal(size=(wide, width)),
        in_c=r.normal(size=(wide, width)),
        in_dt=r.normal(size=(heads, width)),
        conv=r.normal(size=(inner + 2 * wide, 4)),
        a_log=r.normal(size=heads) - 1,
        dt_bias=r.normal(size=heads) - 1,
        d_skip=r.normal(size=(heads, 1)),
        out=r.normal(size=(width, inner)),
        groups=groups,
        in_bias=r.normal(size=2 * inner + 2 * wide + heads),
        conv_bias=r.normal(size=inner + 2 * wide),
        out_bias=r.normal(size=width),
        norm=r.normal(size=inner),
        norm_groups=groups,
    )


MIXERS: dict[str, Mixer] = {
    "mamba1": diagonal(),
    "mamba1-heads": diagonal(groups=2),
    "mamba1-norms": diagonal(norms=True),
    "mamba2": scalar(),
    "mamba2-one-group": scalar(groups=1),
}


def run_on(mixer: Mixer) -> Mixer:
    """Float64 tensors."""
    return to_torch(mixer, torch.float64)


def inputs(batch: int = 3, length: int = 20, width: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, length, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
