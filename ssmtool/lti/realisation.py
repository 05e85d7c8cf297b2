"""Real realisations of a batch of systems on one device, diagonal or dense, behind one interface.

What Gramian factors over a horizon, a band or given inputs need of a system: powers of A, its resolvent, its states.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssmtool.lti.block_potapov import rotate
from ssmtool.lti.factors import batches
from ssmtool.lti.minimal import Minimal, fold, minimal
from ssmtool.lti.potapov import complex_expm1
from ssmtool.lti.systems import DenseSystem, DiagonalSystem, System
from ssmtool_kernels.diagonal_states import diagonal_states

_ULPS = 8 * np.finfo(np.float64).eps  # a pole is real if its angle is 0 or pi up to the rounding of its logarithm
_SETTLED = 80.0  # e-folds after which nothing of an impulse is left: e^-37 is a rounding, twice that allows for growth


@dataclass(frozen=True)
class Modes:
    """Diagonal systems in coordinates (Re x_1 … Re x_N, Im x_1 … Im x_N), n = 2N.

    Attributes:
        a: (S, N) complex128, logarithms of the poles.
        slot_B: (S, N, m), slot_C: (S, p, N) complex128, y = Re(C x).
        real: (S, N) bool, slots with a real pole and real B: their imaginary coordinate stays 0.
    """

    a: Tensor
    slot_B: Tensor
    slot_C: Tensor
    real: Tensor

    @property
    def B(self) -> Tensor:
        """(S, n, m) float64."""
        return torch.cat([self.slot_B.real, self.slot_B.imag], dim=1)

    @property
    def C(self) -> Tensor:
        """(S, p, n) float64."""
        return torch.cat([self.slot_C.real, -self.slot_C.imag], dim=2)

    def power(self, steps: int, X: Tensor) -> Tensor:
        """A^steps X for X (S, n, k)."""
        lam = torch.exp(self.a * steps)
        return rotate(torch.where(self.real, lam.real.to(lam.dtype), lam), X)

    def resolvent(self, omega: Tensor) -> Tensor:
        """(I - A e^{-i omega})^{-1} B at omega (S, F): (S, F, n, m) complex128."""
        turn = 1j * omega[:, :, None]
        plain = (-1 / complex_expm1(self.a[:, None] - turn))[..., None] * self.slot_B[:, None]
        mirror = (-1 / complex_expm1(self.a.conj()[:, None] - turn))[..., None] * self.slot_B.conj()[:, None]
        imaginary = torch.where(self.real[:, None, :, None], torch.zeros_like(plain), (plain - mirror) / 2j)
        return torch.cat([(plain + mirror) / 2, imaginary], dim=2)

    def states(self, inputs: Tensor) -> Tensor:
        """States (S, K, L, n) that K sequences of inputs (S, K, L, m) drive from rest."""
        systems, sequences, length, _ = inputs.shape
        lam = torch.exp(self.a)
        lam = torch.where(self.real, lam.real.to(lam.dtype), lam)
        u = inputs.permute(1, 2, 0, 3)
        # Real times complex in two real products: the inputs need not become complex first.
        driven = torch.view_as_complex(
            torch.stack([(u[..., None, :] @ part.mT).squeeze(-2) for part in (self.slot_B.real, self.slot_B.imag)], -1)
        )
        x = diagonal_states(lam.flatten(), driven.flatten(2))[0]
        x = x.view(sequences, length, systems, -1).permute(2, 0, 1, 3)
        return torch.cat([x.real, x.imag], dim=3)

    def poles(self) -> tuple[Tensor, Tensor]:
        """Angles in [0, pi] and damping -log|lambda| of the poles, (S, N) each."""
        angle = self.a.imag
        return (angle - 2 * torch.pi * torch.round(angle / (2 * torch.pi))).abs(), -self.a.real

    def dual(self) -> Modes:
        """(A^T, C^T, B^T)."""
        return Modes(self.a.conj(), self.slot_C.mT.conj(), self.slot_B.mT.conj(), self.real)

    def seen_through(self, weight: Tensor) -> Modes:
        """The same states with outputs weight y, weight (S, q, p)."""
        return Modes(self.a, self.slot_B, weight.to(self.slot_C.dtype) @ self.slot_C, self.real)


@dataclass(frozen=True)
class Matrices:
    """Dense systems: A (S, n, n), B (S, n, m), C (S, p, n) float64. The methods are those of `Modes`."""

    A: Tensor
    B: Tensor
    C: Tensor

    def power(self, steps: int, X: Tensor) -> Tensor:
        return torch.linalg.matrix_power(self.A, steps) @ X

    def resolvent(self, omega: Tensor) -> Tensor:
        turn = torch.exp(-1j * omega)[:, :, None, None]
        eye = torch.eye(self.A.shape[1], dtype=turn.dtype, device=turn.device)
        right = self.B[:, None].expand(-1, omega.shape[1], -1, -1).to(turn.dtype)
        return torch.linalg.solve(eye - turn * self.A[:, None], right)

    def states(self, inputs: Tensor) -> Tensor:
        driven = inputs @ self.B.mT[:, None]
        x, found = torch.zeros_like(driven[:, :, 0]), []
        for k in range(inputs.shape[2]):
            x = x @ self.A.mT + driven[:, :, k]
            found.append(x)
        return torch.stack(found, dim=2)

    def poles(self) -> tuple[Tensor, Tensor]:
        lam = torch.linalg.eigvals(self.A)
        # A stable pole that the eigenvalue solver puts on the circle is as far inside as a rounding.
        return lam.angle().abs(), -torch.log(lam.abs().clamp(1e-300, 1 - 2.0**-53))

    def dual(self) -> Matrices:
        return Matrices(self.A.mT, self.C.mT, self.B.mT)

    def seen_through(self, weight: Tensor) -> Matrices:
        return Matrices(self.A, self.B, weight @ self.C)


Realisation = Modes | Matrices


def settling(system: Realisation) -> int:
    """Steps, a power of 2, after which nothing is left of an impulse in any system of the batch."""
    damping = float(system.poles()[1].min())
    return 1 << int(np.ceil(np.log2(max(_SETTLED / damping, 1.0))))


def of_minimal(reduced: Minimal, piece: slice, device: torch.device) -> Modes:
    """Some systems in their minimal form."""
    parts = (reduced.a, reduced.B.astype(np.complex128), reduced.C.astype(np.complex128), reduced.real)
    return Modes(*(torch.from_numpy(np.ascontiguousarray(part[piece])).to(device) for part in parts))


def of_slots(system: DiagonalSystem, piece: slice, device: torch.device) -> Modes:
    """Some systems as they are stored, slot by slot, redundant ones and equal poles included."""
    angle = np.abs(fold(system.a.imag))
    at_axis = np.minimum(angle, np.pi - angle) <= _ULPS * np.abs(system.a.imag)
    parts = (system.a, system.B, system.C, at_axis & ~system.B.imag.any(axis=2))
    kinds = (np.complex128, np.complex128, np.complex128, np.bool_)
    return Modes(
        *(torch.from_numpy(part[piece].astype(kind)).to(device) for part, kind in zip(parts, kinds, strict=True))
    )


def of_dense(system: DenseSystem, piece: slice, device: torch.device) -> Matrices:
    """Some dense systems."""
    parts = (system.A, system.B, system.C)
    return Matrices(*(torch.from_numpy(np.ascontiguousarray(part[piece])).to(device) for part in parts))


def realisations(system: System, device: torch.device) -> tuple[list[slice], Callable[[slice], Realisation]]:
    """Pieces of a batch that fit a cache, and the realisation of each; diagonal systems in minimal form."""
    if isinstance(system, DenseSystem):
        return batches(system.systems, system.order, device), lambda piece: of_dense(system, piece, device)
    reduced = minimal(system)
    slots = reduced.a.shape[1]
    return batches(system.systems, 2 * slots, device), lambda piece: of_minimal(reduced, piece, device)
