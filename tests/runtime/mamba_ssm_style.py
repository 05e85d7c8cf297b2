"""A Mamba-2 mixer with the interface of mamba_ssm's: names, cache and scan functions, these as plain loops.

Written against the interface that `ssmtool.runtime.patch` relies on, for machines on which mamba_ssm cannot be built.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmtool_kernels.ssd import ssd


def mamba_chunk_scan_combined(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Tensor,
    dt_bias: Tensor,
    return_final: bool,
) -> Any:
    """x (b, L, H, P), dt (b, L, H), B and C (b, L, G, N)."""
    y, h = ssd(x, dt, A, B, C, D[:, None], dt_bias=dt_bias, dt_softplus=True)
    return (y, h) if return_final else y


def selective_state_update(
    state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, dt_bias: Tensor
) -> Tensor:
    """state (b, H, P, N) is changed in place; x and dt (b, H, P), A (H, P, N), B and C (b, G, N), D (H, P)."""
    share = x.shape[1] // B.shape[1]
    step = F.softplus(dt + dt_bias)[..., None]
    b, c = (part.repeat_interleave(share, 1)[:, :, None] for part in (B, C))
    state.copy_(torch.exp(step * A) * state + step * x[..., None] * b)
    return (state * c).sum(-1) + D * x


class Mamba2(nn.Module):
    """in_proj rows z, x, B, C, dt; norm over the gated output."""

    def __init__(self, d: int, heads: int, headdim: int, d_state: int, ngroups: int, layer_idx: int) -> None:
        super().__init__()
        self.nheads, self.headdim, self.d_state, self.ngroups, self.layer_idx = (
            heads,
            headdim,
            d_state,
            ngroups,
            layer_idx,
        )
        self.d_ssm, self.d_conv, self.use_mem_eff_path = heads * headdim, 4, True
        wide = self.d_ssm + 2 * ngroups * d_state
        self.in_proj = nn.Linear(d, self.d_ssm + wide + heads, bias=False)
        self.conv1d = nn.Conv1d(wide, wide, 4, groups=wide, padding=3)
        self.A_log, self.D, self.dt_bias = (nn.Parameter(torch.randn(heads)) for _ in range(3))
        self.norm = nn.RMSNorm(self.d_ssm, 1e-5)
        self.out_proj = nn.Linear(self.d_ssm, d, bias=False)

    def forward(self, u: Tensor, inference_params: Any = None) -> Tensor:
        state = conv = None
        if inference_params is not None:
            conv, state = self._get_states_from_cache(inference_params, u.shape[0])
            if inference_params.seqlen_offset > 0:
                return self.step(u, conv, state)
        if self.use_mem_eff_path and inference_params is None:
            raise AssertionError("the fused kernel cannot project")
        z, mixed, dt = self._split(self.in_proj(u))
        if conv is not None:
            conv.copy_(F.pad(mixed.transpose(1, 2), (self.d_conv - mixed.shape[1], 0)))
        mixed = F.silu(self.conv1d(mixed.transpose(1, 2))[..., : u.shape[1]]).transpose(1, 2)
        x, B, C = self._parts(mixed)
        scanned = mamba_chunk_scan_combined(
            x.unflatten(-1, (self.nheads, -1)), dt, -self.A_log.exp(), B, C, 8, self.D, self.dt_bias, state is not None
        )
        if state is not None:
            scanned, last = scanned
            state.copy_(last)
        return self._close(scanned.flatten(-2), z)

    def step(self, u: Tensor, conv: Tensor, state: Tensor) -> Tensor:
        z, mixed, dt = (part[:, 0] for part in self._split(self.in_proj(u)))
        conv.copy_(torch.cat([conv[..., 1:], mixed[..., None]], -1))
        mixed = F.silu(F.conv1d(conv, self.conv1d.weight, self.conv1d.bias, groups=conv.shape[1])[..., 0])
        x, B, C = self._parts(mixed)
        widen = (self.nheads, self.headdim)
        y = selective_state_update(
            state,
            x.unflatten(-1, widen),
            dt[..., None].expand(-1, *widen),
            -self.A_log.exp()[:, None, None].expand(*widen, self.d_state),
            B,
            C,
            self.D[:, None].expand(widen),
            self.dt_bias[:, None].expand(widen),
        )
        return self._close(y.flatten(-2), z)[:, None]

    def _split(self, mixed: Tensor) -> tuple[Tensor, ...]:
        return mixed.split([self.d_ssm, self.d_ssm + 2 * self.ngroups * self.d_state, self.nheads], -1)

    def _parts(self, mixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        wide = self.ngroups * self.d_state
        x, B, C = mixed.split([self.d_ssm, wide, wide], -1)
        return x, B.unflatten(-1, (self.ngroups, -1)), C.unflatten(-1, (self.ngroups, -1))

    def _close(self, y: Tensor, z: Tensor) -> Tensor:
        return self.out_proj(self.norm(y * F.silu(z)))

    def allocate_inference_cache(self, batch_size: int, max_seqlen: int, **kwargs: Any) -> tuple[Tensor, Tensor]:
        conv = torch.zeros(batch_size, self.conv1d.weight.shape[0], self.d_conv)
        return conv, torch.zeros(batch_size, self.nheads, self.headdim, self.d_state)

    def _get_states_from_cache(self, inference_params: Any, batch_size: int) -> tuple[Tensor, Tensor]:
        cache = inference_params.key_value_memory_dict
        if self.layer_idx not in cache:
            cache[self.layer_idx] = self.allocate_inference_cache(batch_size, 0)
        return cache[self.layer_idx]
