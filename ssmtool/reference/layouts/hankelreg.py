"""HankelReg under the names of Algopaul/hankelreg (JAX, flax.nnx), paths joined with ".".

Schwerdtner et al.: Hankel singular value regularization for highly compressible state space models, NeurIPS 2025.

The norm is one over channels, as in the other layouts; the original's is a batch norm, whose running mean and variance
would make the loss of a step depend on steps before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import nn

from ssmtool.reference.convolution import causal_convolution, powers
from ssmtool.reference.layouts._contract import ReferenceModel, Sizes, StateSpace, layer_indices, time_mean
from ssmtool.reference.layouts._flax import Block, Dense

SUMMARY = "HankelReg of Algopaul/hankelreg: one multi-input multi-output system of 2x2 rotation blocks per layer"
RADIUS_RANGE = (0.9, 0.999)
POLES = "layers.{}.sequence_processor.rotation.angles"


def matches(names: Iterable[str]) -> bool:
    """Whether the tensors are those of this layout."""
    return any(name.startswith("layers.") and name.endswith(".rotation.angles") for name in names)


def sizes(shapes: Mapping[str, tuple[int, ...]]) -> Sizes:
    """Sizes from shapes alone."""
    inputs, width = shapes["enc.kernel"]
    blocks = tuple(shapes[name][0] for name in layer_indices(list(shapes), POLES))
    return Sizes(inputs, width, shapes["dec.kernel"][1], blocks)


def create(sizes: Sizes, dropout: float = 0.0) -> ReferenceModel:
    """A model whose poles start on the ring of the LRU; the original's start near 0.88, a memory of eight steps."""
    return HankelRegClassifier(sizes, dropout)


class Rotation(nn.Module):
    """The poles of n blocks: angle = π (tanh(angles) + 1) / 2 and rho = (tanh(retentions) + 1) / 2, stable always."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        low, high = RADIUS_RANGE
        rho = torch.sqrt(low**2 + (high**2 - low**2) * torch.rand(blocks))
        share = torch.rand(blocks).clamp(1e-3, 1 - 1e-3)
        self.angles = nn.Parameter(torch.logit(share) / 2)
        self.retentions = nn.Parameter(torch.logit(rho) / 2)

    def forward(self) -> torch.Tensor:
        """(n,) complex128 logarithms of the eigenvalues rho exp(-i angle), accurate for rho near 1."""
        log_rho = nn.functional.logsigmoid(2 * self.retentions.double())
        return torch.complex(log_rho, -math.pi * torch.sigmoid(2 * self.angles.double()))


class HankelReg(StateSpace):
    """x_i[k] = rho_i [[cos, sin], [-sin, cos]](angle_i) x_i[k-1] + sys_in_i u[k], with real x_i of two entries.

    y[k] = sum_i sys_out[:, i] x_i[k] + sys_feed u[k]. With z = x_1 + i x_2 a block is one complex mode, with the
    eigenvalue rho exp(-i angle), the input row sys_in[0] + i sys_in[1] and y = Re((sys_out[0] - i sys_out[1]) z).
    sys_in (n, 2, H), sys_out (H, n, 2), sys_feed (H,).
    """

    def __init__(self, width: int, slots: int) -> None:
        super().__init__()
        self.systems, self.slots = 1, slots
        self.rotation = Rotation(slots)
        # Unit variance of the states under white input: nothing here scales them later, as LRU's gamma does.
        gain = torch.sqrt(-torch.expm1(2 * self.rotation().detach().real)).to(torch.get_default_dtype())
        self.sys_in = nn.Parameter(gain[:, None, None] * torch.randn(slots, 2, width) / math.sqrt(2 * width))
        self.sys_out = nn.Parameter(torch.randn(width, slots, 2) / math.sqrt(slots))
        self.sys_feed = nn.Parameter(torch.randn(width))

    def mix(self, u: torch.Tensor) -> torch.Tensor:
        B = torch.complex(self.sys_in[:, 0], self.sys_in[:, 1])
        C = torch.complex(self.sys_out[..., 0], -self.sys_out[..., 1])
        driven = torch.einsum("blh,nh->bnl", u.to(C.dtype), B)
        states = causal_convolution(driven, powers(self.rotation(), u.shape[-2]).to(C.dtype))
        return torch.einsum("bnl,hn->blh", states, C).real + self.sys_feed * u

    def state_parameters(self) -> Iterator[nn.Parameter]:
        return self.parameters()

    def residue_parameters(self) -> Iterator[nn.Parameter]:
        yield from (self.sys_in, self.sys_out)


class HankelRegClassifier(ReferenceModel):
    """Encoder, blocks, mean over time, decoder under the names ``enc``, ``layers``, ``dec``."""

    def __init__(self, sizes: Sizes, dropout: float) -> None:
        super().__init__(sizes)
        width = sizes.width
        self.enc = Dense(sizes.inputs, width)
        self.layers = nn.ModuleList(
            Block(HankelReg(width, slots), width, dropout, norm="prenorm", full=False, name="sequence_processor")
            for slots in sizes.slots
        )
        self.dec = Dense(width, sizes.classes)

    def forward(self, u: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        x = self.enc(u)
        for layer in self.layers:
            x = layer(x)
        return self.dec(time_mean(x, lengths))
