"""S5 under the names of lindermanlab/S5 (JAX), conjugate-symmetric half storage, zero-order hold.

Smith, Warrington, Linderman: Simplified state space layers for sequence modeling, ICLR 2023.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import nn

from ssmtool.reference.convolution import causal_convolution, phi1, powers
from ssmtool.reference.layouts._contract import ReferenceModel, Sizes, StateSpace, log_uniform
from ssmtool.reference.layouts._flax import FlaxClassifier, frame_sizes

SUMMARY = "S5 of lindermanlab/S5: one multi-input multi-output system per layer, half of each conjugate pair stored"
STEP_RANGE = (1e-3, 1e-1)
# Real order of one HiPPO block. The highest frequency grows with its square (81 rad/s at 16, 1303 at 64): one block
# as large as the state would start far above what the sampled sequence can show.
BLOCK_ORDER = 16


def matches(names: Iterable[str]) -> bool:
    """Whether the tensors are those of this layout."""
    return any(name.startswith("encoder.layers_") and name.endswith(".seq.Lambda_re") for name in names)


def sizes(shapes: Mapping[str, tuple[int, ...]]) -> Sizes:
    """Sizes from shapes alone."""
    return frame_sizes(shapes, "Lambda_re")


def create(sizes: Sizes, dropout: float = 0.0) -> ReferenceModel:
    """A model with HiPPO-N initialisation and the gate ``half_glu1``, the original's default."""
    return FlaxClassifier(sizes, dropout, S5, norm="norm", full=False)


def hippo_normal(order: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Half of the spectrum of the normal part of HiPPO-LegS, and its eigenvectors.

    The normal part is A + P P^T with A_nk = -sqrt((2n+1)(2k+1)) below the diagonal, -(n+1) on it, and
    P_n = sqrt(n + 1/2). It equals -I/2 plus a skew-symmetric matrix, so the eigenvectors are unitary and come from
    a Hermitian eigenproblem: no ill-conditioned inverse of a general eigenvector matrix is needed.

    Args:
        order: n, even.

    Returns:
        (n/2,) complex128 eigenvalues, those with negative imaginary part as in the original; (n, n/2) complex128.
    """
    root = torch.sqrt(2 * torch.arange(order, dtype=torch.float64) + 1)
    # The skew part is minus one half of the outer product below the diagonal and plus one half above it.
    outer = torch.outer(root, root) / 2
    skew = torch.triu(outer, 1) - torch.tril(outer, -1)
    frequencies, vectors = torch.linalg.eigh(-1j * skew.to(torch.complex128))
    half = order // 2
    return torch.complex(torch.full((half,), -0.5, dtype=torch.float64), frequencies[:half]), vectors[:, :half]


class S5(StateSpace):
    """x[k] = Abar x[k-1] + Bbar u[k], y[k] = 2 Re(C x[k]) + D u[k] with P stored states and H channels.

    Abar = exp(dt Lambda), Bbar = (Abar - 1)/Lambda B, dt = exp(log_step) per state. B (P, H, 2) and C (H, P, 2) hold
    real and imaginary parts.
    """

    def __init__(self, width: int, slots: int) -> None:
        super().__init__()
        self.systems, self.slots = 1, slots
        order = BLOCK_ORDER if 2 * slots % BLOCK_ORDER == 0 else 2 * slots
        block, basis = hippo_normal(order)
        eigenvalues = block.repeat(2 * slots // order)
        vectors = torch.block_diag(*[basis] * (2 * slots // order))
        B = vectors.mH @ torch.randn(2 * slots, width).to(vectors) / math.sqrt(width)
        C = torch.view_as_complex(torch.randn(width, 2 * slots, 2)).to(vectors) @ vectors / math.sqrt(2 * slots)
        self.Lambda_re = nn.Parameter(eigenvalues.real.float())
        self.Lambda_im = nn.Parameter(eigenvalues.imag.float())
        self.B = nn.Parameter(torch.view_as_real(B).float())
        self.C = nn.Parameter(torch.view_as_real(C).float())
        self.D = nn.Parameter(torch.randn(width))
        self.log_step = nn.Parameter(log_uniform(*STEP_RANGE, (slots, 1)))

    def mix(self, u: torch.Tensor) -> torch.Tensor:
        dt = self.log_step.double().exp().squeeze(-1)
        z = torch.complex(self.Lambda_re.double(), self.Lambda_im.double()) * dt
        B = (dt * phi1(z)).unsqueeze(-1) * torch.view_as_complex(self.B.double())
        C = torch.view_as_complex(self.C)
        driven = torch.einsum("blh,ph->bpl", u.to(C.dtype), B.to(C.dtype))
        states = causal_convolution(driven, powers(z, u.shape[-2]).to(C.dtype))
        return 2 * torch.einsum("bpl,hp->blh", states, C).real + self.D * u

    def state_parameters(self) -> Iterator[nn.Parameter]:
        return self.parameters()

    def residue_parameters(self) -> Iterator[nn.Parameter]:
        yield from (self.B, self.C)

    @torch.no_grad()
    def constrain(self) -> None:
        # What the original does in its forward pass under clip_eigs, done to the stored value.
        self.Lambda_re.clamp_(max=-1e-4)
