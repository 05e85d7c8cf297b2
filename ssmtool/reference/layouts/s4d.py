"""S4D under the names of the standalone ``s4d.py`` and ``example.py`` of state-spaces/s4.

Gu, Gupta, Goel, Re: On the parameterization and initialization of diagonal state space models, NeurIPS 2022.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import nn

from ssmtool.reference.convolution import causal_convolution, mode_sum, phi1
from ssmtool.reference.layouts._contract import (
    ReferenceModel,
    Sizes,
    StateSpace,
    TiedDropout,
    layer_indices,
    log_uniform,
    time_mean,
)

SUMMARY = "S4D, standalone file of state-spaces/s4: one single-input single-output system per channel"
DT_RANGE = (1e-3, 1e-1)


def matches(names: Iterable[str]) -> bool:
    """Whether the tensors are those of this layout: no other one stores ``log_A_real``."""
    return any(name.startswith("s4_layers.") and name.endswith(".kernel.log_A_real") for name in names)


def sizes(shapes: Mapping[str, tuple[int, ...]]) -> Sizes:
    """Sizes from shapes alone."""
    width, inputs = shapes["encoder.weight"]
    poles = layer_indices(list(shapes), "s4_layers.{}.kernel.log_A_real")
    return Sizes(inputs, width, shapes["decoder.weight"][0], tuple(shapes[name][1] for name in poles))


def create(sizes: Sizes, dropout: float = 0.0) -> ReferenceModel:
    """A model with S4D-Inv initialisation."""
    return S4DClassifier(sizes, dropout)


class S4DKernel(nn.Module):
    """Convolution kernels of H systems with N stored modes each.

    K[h, j] = 2 Re sum_n C_hn (e^{dt_h lam_hn} - 1)/lam_hn e^{j dt_h lam_hn},  lam = -exp(log_A_real) + i A_imag,
    dt = exp(log_dt): zero-order hold with B = 1.
    """

    def __init__(self, width: int, slots: int) -> None:
        super().__init__()
        self.log_dt = nn.Parameter(log_uniform(*DT_RANGE, (width,)))
        self.C = nn.Parameter(torch.randn(width, slots, 2) * math.sqrt(0.5))
        self.log_A_real = nn.Parameter(torch.full((width, slots), math.log(0.5)))
        # S4D-Inv: frequencies crowd towards 0, where sequences of some dozens of steps have their content.
        frequency = slots / math.pi * (slots / (2 * torch.arange(slots) + 1) - 1)
        self.A_imag = nn.Parameter(frequency.repeat(width, 1).to(self.log_A_real.dtype))

    def forward(self, length: int) -> torch.Tensor:
        """(H, length), in the parameters' own dtype."""
        dt = self.log_dt.double().exp().unsqueeze(-1)
        z = torch.complex(-self.log_A_real.double().exp(), self.A_imag.double()) * dt
        weight = torch.view_as_complex(self.C.double()) * dt * phi1(z)
        return (2 * mode_sum(weight, z, length).real).to(self.C.dtype)


class S4D(StateSpace):
    """One layer: the H systems, D, GELU, then a linear map with a gated linear unit."""

    def __init__(self, width: int, slots: int, dropout: float) -> None:
        super().__init__()
        self.systems, self.slots = width, slots
        self.D = nn.Parameter(torch.randn(width))
        self.kernel = S4DKernel(width, slots)
        # A convolution of length 1, as in the original, so that the stored weight is (2H, H, 1).
        self.output_linear = nn.Sequential(nn.Conv1d(width, 2 * width, 1), nn.GLU(dim=-2))
        self.dropout = TiedDropout(dropout)

    def mix(self, u: torch.Tensor) -> torch.Tensor:
        channels = u.transpose(-1, -2)
        y = causal_convolution(channels, self.kernel(u.shape[-2]))
        return (y + channels * self.D.unsqueeze(-1)).transpose(-1, -2)

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        # Time before channels in memory, and the convolution of length 1 as a matrix product: both save time on a CPU.
        y, linear = self.dropout(F.gelu(self.mix(u).contiguous())), self.output_linear[0]
        assert isinstance(linear, nn.Conv1d)
        return F.glu(F.linear(y, linear.weight.squeeze(-1), linear.bias))

    def state_parameters(self) -> Iterator[nn.Parameter]:
        yield self.D
        yield from self.kernel.parameters()

    def residue_parameters(self) -> Iterator[nn.Parameter]:
        yield self.kernel.C


class S4DClassifier(ReferenceModel):
    """`example.py` of state-spaces/s4 with pre-norm blocks."""

    def __init__(self, sizes: Sizes, dropout: float) -> None:
        super().__init__(sizes)
        self.encoder = nn.Linear(sizes.inputs, sizes.width)
        self.s4_layers = nn.ModuleList(S4D(sizes.width, slots, dropout) for slots in sizes.slots)
        self.norms = nn.ModuleList(nn.LayerNorm(sizes.width) for _ in sizes.slots)
        self.dropout = TiedDropout(dropout)
        self.decoder = nn.Linear(sizes.width, sizes.classes)

    def forward(self, u: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        x = self.encoder(u)
        for layer, norm in zip(self.s4_layers, self.norms, strict=True):
            x = x + self.dropout(layer(norm(x)))
        return self.decoder(time_mean(x, lengths))
