"""A V4 S4 model, by its published formula written out here, reduced and refined through code of the user's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ssmtool import plugins
from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.lti.impulse import impulse_response
from ssmtool.pipeline.compress import compress
from ssmtool.pipeline.model import load
from ssmtool.pipeline.refine import RefineOptions
from tests.pipeline.checkpoints import raw, tensors_of, tiny, write_folder, written
from tests.pipeline.live_models import sequences


class Kernel(nn.Module):
    """2 Re sum_n C B (exp(dt A) - 1) / A exp(dt A j), A = -exp(A_real) - i A_imag, dt = exp(inv_dt)."""

    C: Any
    B: Any
    A_real: Any
    A_imag: Any
    inv_dt: Any

    def __init__(self, state, prefix):
        super().__init__()
        for name in ("C", "B", "A_real", "A_imag", "inv_dt"):
            self.register_parameter(name, nn.Parameter(state[prefix + name]))

    def forward(self, length):
        A = torch.complex(-self.A_real.exp(), -self.A_imag)
        z = A * self.inv_dt.exp().reshape(len(self.inv_dt), -1)
        weight = (torch.view_as_complex(self.C) * torch.view_as_complex(self.B))[0] * (z.exp() - 1) / A
        return 2 * (weight[..., None] * (z[..., None] * torch.arange(length)).exp()).sum(1).real


class Layer(nn.Module):
    def __init__(self, state, prefix):
        super().__init__()
        self.D, self.kernel = nn.Parameter(state[prefix + "D"]), Kernel(state, prefix + "kernel.")

    def forward(self, u):  # (batch, length, channels)
        x, n = u.transpose(1, 2), u.shape[1]
        y = torch.fft.irfft(torch.fft.rfft(x, 2 * n) * torch.fft.rfft(self.kernel(n), 2 * n), 2 * n)[..., :n]
        return (y + x * self.D[0][:, None]).transpose(1, 2)


class Model(nn.Module):
    """Layers at the places their names say, everything else of the checkpoint as it is."""

    def __init__(self, state):
        super().__init__()
        self.names = sorted(name.removesuffix("kernel.A_real") for name in state if name.endswith("kernel.A_real"))
        for name in self.names:
            parent: nn.Module = self
            *path, last = name.rstrip(".").split(".")
            for part in path:
                if not hasattr(parent, part):
                    parent.add_module(part, nn.Module())
                parent = getattr(parent, part)
            parent.add_module(last, Layer(state, name))

    def forward(self, u):
        for name in self.names:
            u = u + torch.tanh(self.get_submodule(name.rstrip("."))(u))
        return u


def test_a_refined_s4_checkpoint(tmp_path):
    tensors, config = tiny("s4", "v4-diag")
    folder = write_folder(tmp_path / "model", tensors, config)
    channels = load(folder).layers[0].systems
    data = sequences(40, 20, channels)
    done = compress(
        load(folder),
        tmp_path / "out",
        rank=2,
        inputs=data.numpy(),
        build=Model,
        refine=RefineOptions(20, 20),
        device="cpu",
    )
    before, after = tensors_of(folder), tensors_of(written(done))
    judging = torch.randperm(40, generator=torch.Generator().manual_seed(0))[:4]
    with torch.no_grad():
        wanted = Model(before)(data).double()
        error = (Model(after)(data[judging]) - wanted[judging]).square().mean() / wanted.var(correction=0)
    assert done.refinement is not None
    assert done.refinement.outputs.after == pytest.approx(error.item(), rel=1e-3)
    assert done.refinement.outputs.after < done.refinement.outputs.before
    ours = {name for layer in load(folder).layers for name in layer.tensors.values()}
    assert all(raw(after[name]) == raw(before[name]) for name in before if name not in ours or name.endswith("inv_dt"))


def test_the_model_here_is_the_layer_that_is_reduced():
    """The formula above against the impulse response of the canonical system."""
    tensors, config = tiny("s4", "v4-diag")
    module = plugins.load("ssmtool.families", "s4")
    infos = {name: TensorInfo(tuple(x.shape), "F32") for name, x in tensors.items()}
    layer = module.layers(infos, config)[0]
    system = module.to_system(layer, {role: tensors[name].double().numpy() for role, name in layer.tensors.items()})
    made: Any = Model(tensors).get_submodule(layer.tensors["D"].removesuffix(".D"))
    kernel = made.kernel(12).detach()
    response = torch.from_numpy(impulse_response(system, 12))[:, 0, 0]
    response[:, 0] -= tensors[layer.tensors["D"]][0].double()
    torch.testing.assert_close(kernel.double(), response, atol=1e-4, rtol=1e-4)
