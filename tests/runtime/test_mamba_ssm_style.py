"""Patching mixers written like mamba_ssm's."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ssmtool.errors import UsageError
from ssmtool.runtime import patch
from ssmtool.selective.forward import forward
from ssmtool.selective.mixers import ScalarMixer
from tests.runtime.mamba_ssm_style import Mamba2

N, R, G = 8, 3, 2


def canonical(mixer: Mamba2, project_b: torch.Tensor, project_c: torch.Tensor) -> ScalarMixer:
    wide = G * N
    z, x, b, c, dt = mixer.in_proj.weight.split([mixer.d_ssm, mixer.d_ssm, wide, wide, mixer.nheads])
    return ScalarMixer(
        in_z=z, in_x=x, in_b=b, in_c=c, in_dt=dt, conv=mixer.conv1d.weight[:, 0], conv_bias=mixer.conv1d.bias,
        a_log=mixer.A_log, dt_bias=mixer.dt_bias, d_skip=mixer.D[:, None], out=mixer.out_proj.weight, groups=G,
        norm=mixer.norm.weight, project_b=project_b, project_c=project_c,
    )  # fmt: skip


@torch.no_grad()
def test_prefill_and_steps_with_r_states():
    torch.manual_seed(0)
    mixer = Mamba2(12, 4, 4, N, G, layer_idx=0)
    model = nn.ModuleDict({"layers": nn.ModuleList([mixer])})
    pair = (torch.randn(G, R, N), torch.randn(G, R, N))
    patch(model, {"layers.0": pair})
    u = torch.randn(2, 9, 12)
    expected = forward(canonical(mixer, *pair), u)[0]
    torch.testing.assert_close(mixer(u), expected, rtol=1e-4, atol=1e-5)
    cache = SimpleNamespace(key_value_memory_dict={}, seqlen_offset=0)
    rows = [mixer(u[:, :5], inference_params=cache)]
    for t in range(5, 9):
        cache.seqlen_offset = t
        rows.append(mixer(u[:, t : t + 1], inference_params=cache))
    torch.testing.assert_close(torch.cat(rows, 1), expected, rtol=1e-4, atol=1e-5)
    assert cache.key_value_memory_dict[0][1].shape == (2, 4, 4, R)
    assert mixer.allocate_inference_cache(2, 9)[1].shape == (2, 4, 4, R)


def test_code_of_neither_kind_is_refused():
    class Unknown(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.A_log, self.n_groups, self.ssm_state_size = nn.Parameter(torch.zeros(4)), G, N
            self.in_proj = nn.Linear(2, 2)

    model = nn.ModuleDict({"layers": nn.ModuleList([Unknown()])})
    with pytest.raises(UsageError, match="has no mamba2_chunk_scan"):
        patch(model, {"layers.0": (torch.zeros(G, R, N), torch.zeros(G, R, N))})
