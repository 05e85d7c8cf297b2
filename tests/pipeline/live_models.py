"""Small modules that run, with state-space tensors under the names of a family, written for tests from the formulas."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

S4D_CODE = '''
import torch
from torch import nn


class Kernel(nn.Module):
    """2 Re sum_n C (exp(dt A) - 1) / A exp(dt A j), as many modes as the tensors hold."""

    def __init__(self, C, log_dt, log_A_real, A_imag):
        super().__init__()
        self.C, self.log_dt = nn.Parameter(C), nn.Parameter(log_dt)
        self.log_A_real, self.A_imag = nn.Parameter(log_A_real), nn.Parameter(A_imag)

    def forward(self, length):
        A = torch.complex(-self.log_A_real.exp(), self.A_imag)
        z = A * self.log_dt.exp()[:, None]
        weight = torch.view_as_complex(self.C.contiguous()) * (z.exp() - 1) / A
        return 2 * (weight[..., None] * (z[..., None] * torch.arange(length)).exp()).sum(1).real


class S4D(nn.Module):
    def __init__(self, at):
        super().__init__()
        self.D = nn.Parameter(at("D"))
        self.kernel = Kernel(*(at("kernel." + name) for name in ("C", "log_dt", "log_A_real", "A_imag")))
        self.mix = nn.Conv1d(self.D.numel(), 2 * self.D.numel(), 1)

    def forward(self, u):                              # (batch, channels, length)
        n = u.shape[-1]
        k = torch.fft.rfft(self.kernel(n), 2 * n)
        y = torch.fft.irfft(torch.fft.rfft(u, 2 * n) * k, 2 * n)[..., :n] + u * self.D[:, None]
        return nn.functional.glu(self.mix(torch.tanh(y)), dim=1)


class Model(nn.Module):
    def __init__(self, state):
        super().__init__()
        self.encoder = nn.Linear(*state["encoder.weight"].shape[::-1])
        self.layers = nn.ModuleList()
        while f"layers.{len(self.layers)}.D" in state:
            prefix = f"layers.{len(self.layers)}."
            self.layers.append(S4D(lambda name, prefix=prefix: state[prefix + name]))
        self.decoder = nn.Linear(*state["decoder.weight"].shape[::-1])

    def forward(self, u):                              # (batch, length, inputs)
        x = self.encoder(u).transpose(1, 2)
        for layer in self.layers:
            x = x + layer(x)
        return self.decoder(x.mean(-1))


def build(state):
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    model = Model(state)
    model.load_state_dict(state)
    return model
'''


def s4d_state(seed: int = 0, channels: int = 3, slots: int = 6, layers: int = 2, inputs: int = 2, outputs: int = 2):
    """Tensors for S4D_CODE, with modes fast and slow."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=g)

    state = {"encoder.weight": normal(channels, inputs), "encoder.bias": normal(channels)}
    for i in range(layers):
        at = f"layers.{i}."
        state |= {
            at + "D": normal(channels),
            at + "kernel.C": normal(channels, slots, 2),
            at + "kernel.log_dt": -2.5 + 0.3 * normal(channels),
            at + "kernel.log_A_real": normal(channels, slots),
            at + "kernel.A_imag": 3 * torch.arange(slots) + normal(channels, slots),
            at + "mix.weight": normal(2 * channels, channels, 1) / channels**0.5,
            at + "mix.bias": normal(2 * channels),
        }
    return state | {"decoder.weight": normal(outputs, channels), "decoder.bias": normal(outputs)}


def built(state):
    """The module of S4D_CODE."""
    space: dict = {}
    exec(S4D_CODE, space)
    return space["build"](state).eval()


class Neutral(nn.Module):
    """A multi-input multi-output system in the neutral layout: x[k] = exp(a) x[k-1] + B u[k], y = Re(C x) + D u."""

    lambda_log: Any
    B: Any
    C: Any
    D: Any

    def __init__(self, width: int, states: int, seed: int, *, buffers: bool = False):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        values = {
            "lambda_log": torch.complex(-0.05 - torch.rand(states, generator=g), 3 * torch.rand(states, generator=g)),
            "B": torch.randn(states, width, dtype=torch.complex64, generator=g),
            "C": torch.randn(width, states, dtype=torch.complex64, generator=g),
            "D": torch.randn(width, width, generator=g),
        }
        for name, x in values.items():
            self.register_buffer(name, x) if buffers else self.register_parameter(name, nn.Parameter(x))

    def run(self, u):
        x, out = u.new_zeros(len(u), len(self.lambda_log), dtype=torch.complex64), []
        for k in range(u.shape[1]):
            x = self.lambda_log.exp() * x + u[:, k].to(torch.complex64) @ self.B.T
            out.append((x @ self.C.T).real + u[:, k] @ self.D.T)
        return torch.stack(out, 1)

    def forward(self, u):
        return self.run(u)


class Block(nn.Module):
    """A norm, the system, a nonlinearity; `how` it calls the system."""

    ssm: Any

    def __init__(self, width: int, states: int, seed: int, how: str = "module", **options):
        super().__init__()
        self.ssm, self.how = Neutral(width, states, seed, **options), how

    def forward(self, x, scale=1.0, pair=()):
        u = F.layer_norm(x, x.shape[-1:])
        y = self.ssm.run(u) if self.how == "method" else self.ssm(u=u) if self.how == "keyword" else self.ssm(u)
        y = x + scale * torch.tanh(y)
        return (y, "state") if self.how == "tuple" else y


class Stack(nn.Module):
    """Encoder (of numbers or tokens), blocks, mean over time, decoder."""

    layers: Any

    def __init__(
        self, width: int = 3, states: int = 4, how: str = "module", *, tokens: int = 0, inputs: int = 2, **options
    ):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.encoder = nn.Embedding(tokens, width) if tokens else nn.Linear(inputs, width)
            self.decoder = nn.Linear(width, 4)
        self.layers = nn.ModuleList(Block(width, states, i, how, **options) for i in range(2))

    def forward(self, u):
        x = self.encoder(u)
        for layer in self.layers:
            x = layer(x)
            x = x[0] if isinstance(x, tuple) else x
        return self.decoder(x.mean(1))


def smaller(model: Stack, states: int) -> Stack:
    """The same model with the first few states of every layer: a crude reduction."""
    out = copy.deepcopy(model)
    for layer in out.layers:
        for name, cut in (("lambda_log", 0), ("B", 0), ("C", 1)):
            x = getattr(layer.ssm, name).detach().narrow(cut, 0, states).clone()
            setattr(layer.ssm, name, nn.Parameter(x) if name in layer.ssm._parameters else x)
    return out


def sequences(count: int = 48, length: int = 20, inputs: int = 2, seed: int = 3) -> torch.Tensor:
    """Smooth noise, (count, length, inputs) float32."""
    g = torch.Generator().manual_seed(seed)
    return torch.cumsum(torch.randn(count, length, inputs, generator=g), 1) / 3
