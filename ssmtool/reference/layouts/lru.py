"""LRU under the names of NicolasZucchet/minimal-LRU (JAX).

Orvieto et al.: Resurrecting recurrent neural networks for long sequences, ICML 2023.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import nn

from ssmtool.reference.convolution import causal_convolution, powers
from ssmtool.reference.layouts._contract import ReferenceModel, Sizes, StateSpace
from ssmtool.reference.layouts._flax import FlaxClassifier, frame_sizes

SUMMARY = "LRU of minimal-LRU: one multi-input multi-output system per layer, already in discrete time"
RADIUS_RANGE = (0.9, 0.999)


def matches(names: Iterable[str]) -> bool:
    """Whether the tensors are those of this layout."""
    return any(name.startswith("encoder.layers_") and name.endswith(".seq.nu_log") for name in names)


def sizes(shapes: Mapping[str, tuple[int, ...]]) -> Sizes:
    """Sizes from shapes alone."""
    return frame_sizes(shapes, "nu_log")


def create(sizes: Sizes, dropout: float = 0.0) -> ReferenceModel:
    """A model with ring initialisation and a full gated linear unit."""
    return FlaxClassifier(sizes, dropout, LRU, norm="normalization", full=True)


class LRU(StateSpace):
    """x[k] = lam x[k-1] + exp(gamma_log) B u[k], y[k] = Re(C x[k]) + D u[k] with N complex states and H channels.

    lam = exp(-exp(nu_log) + i exp(theta_log)). Unlike S5 there is no factor 2 in the output. gamma_log starts as
    log sqrt(1 - |lam|^2), which gives every state unit variance under white input, and is then trained freely.
    """

    def __init__(self, width: int, slots: int) -> None:
        super().__init__()
        self.systems, self.slots = 1, slots
        low, high = RADIUS_RANGE
        # Uniform in area over the ring low < |lam| < high, upper half plane: the real part makes the other redundant.
        nu = -0.5 * torch.log(low**2 + (high**2 - low**2) * torch.rand(slots))
        self.nu_log = nn.Parameter(torch.log(nu))
        self.theta_log = nn.Parameter(torch.log(math.pi * torch.rand(slots)))
        self.gamma_log = nn.Parameter(0.5 * torch.log(-torch.expm1(-2 * nu)))
        self.B_re, self.B_im = (nn.Parameter(torch.randn(slots, width) / math.sqrt(2 * width)) for _ in range(2))
        self.C_re, self.C_im = (nn.Parameter(torch.randn(width, slots) / math.sqrt(slots)) for _ in range(2))
        self.D = nn.Parameter(torch.randn(width))

    def mix(self, u: torch.Tensor) -> torch.Tensor:
        z = torch.complex(-self.nu_log.double().exp(), self.theta_log.double().exp())
        C = torch.complex(self.C_re, self.C_im)
        B = self.gamma_log.exp().unsqueeze(-1) * torch.complex(self.B_re, self.B_im)
        driven = torch.einsum("blh,nh->bnl", u.to(C.dtype), B)
        states = causal_convolution(driven, powers(z, u.shape[-2]).to(C.dtype))
        return torch.einsum("bnl,hn->blh", states, C).real + self.D * u

    def state_parameters(self) -> Iterator[nn.Parameter]:
        return self.parameters()

    def residue_parameters(self) -> Iterator[nn.Parameter]:
        yield from (self.B_re, self.B_im, self.C_re, self.C_im)
