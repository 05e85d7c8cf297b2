"""Norms of canonical systems, and the system that is the difference of two."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssmtool.lti import dense
from ssmtool.lti.factors import Progress, Slots, batches, parallel, resolve_device
from ssmtool.lti.minimal import fold, minimal
from ssmtool.lti.systems import DenseSystem, DiagonalSystem, System

_COARSE = 96  # frequencies of the search that do not depend on the poles
_LARGE = 48  # matrices larger than this are searched by power iteration before the exact norm is taken


def to_dense(system: System) -> DenseSystem:
    """Real dense form in coordinates (Re x, Im x); a dense system is returned as it is."""
    if isinstance(system, DenseSystem):
        return system
    lam: NDArray[np.complexfloating] = np.exp(system.a)
    n = system.slots
    A = np.zeros((system.systems, 2 * n, 2 * n))
    i = np.arange(n)
    A[:, i, i], A[:, i, n + i], A[:, n + i, i], A[:, n + i, n + i] = lam.real, -lam.imag, lam.imag, lam.real
    B = np.concatenate([system.B.real, system.B.imag], axis=1)
    C = np.concatenate([system.C.real, -system.C.imag], axis=2)
    return DenseSystem(A, B, C, system.D)


def difference(first: System, second: System) -> System:
    """The system first - second (same S, m, p): poles side by side, C of the second negated."""
    if isinstance(first, DiagonalSystem) and isinstance(second, DiagonalSystem):
        return DiagonalSystem(
            np.concatenate([first.a, second.a], axis=1),
            np.concatenate([first.B, second.B], axis=1),
            np.concatenate([first.C, -second.C], axis=2),
            first.D - second.D,
        )
    x, y = to_dense(first), to_dense(second)
    n, k = x.order, y.order
    A = np.zeros((x.systems, n + k, n + k))
    A[:, :n, :n], A[:, n:, n:] = x.A, y.A
    return DenseSystem(A, np.concatenate([x.B, y.B], 1), np.concatenate([x.C, -y.C], 2), x.D - y.D)


def h2_norm(system: System, device: str = "cpu") -> np.ndarray:
    """(S,) H2 norm: root of the energy of the impulse response, stable systems only.

    ||C L||_F^2 + 2 tr(D^T C B) + ||D||_F^2 with the factor P = L L^T; nothing is ever obtained by subtracting traces,
    so the H2 error of a good approximation keeps its digits.

    Source: docs/numerics.md.
    """
    if isinstance(system, DenseSystem):
        energy = []
        for s in range(system.systems):
            L, _ = dense.gramian_factors(system.A[s], system.B[s], system.C[s])
            energy.append(np.square(system.C[s] @ L).sum())
        direct = system.C @ system.B
        D = system.D
        return np.sqrt(np.maximum(np.array(energy) + (D * (2 * direct + D)).sum(axis=(1, 2)), 0.0))
    target = resolve_device(device)
    reduced = minimal(system)

    def task(piece: slice) -> np.ndarray:
        # Energies need no relative accuracy of small factor columns: pairs may be nearly real here.
        slots = Slots(reduced, piece, target)
        return (slots.real_C() @ slots.reachability()).square().sum(dim=(1, 2)).cpu().numpy()

    energy = np.concatenate(parallel(task, batches(system.systems, reduced.a.shape[1], target), target))
    if system.D.any():
        direct = np.matmul(system.C, system.B).real
        energy = energy + (system.D * (2 * direct + system.D)).sum(axis=(1, 2))
    return np.sqrt(np.maximum(energy, 0.0))


def hinf_norm(system: System, device: str = "cpu", progress: Progress | None = None) -> np.ndarray:
    """(S,) H-infinity norm, the largest singular value of the frequency response over the unit circle.

    Searched on a grid that knows the poles, then refined around the largest values; what is returned is attained at
    a frequency, i.e. a lower bound of the norm, tight to about 1e-6 relative; 1e-3 for more than 48 inputs and outputs,
    where power iteration looks for the peak. Diagonal systems are evaluated pole by pole, dense ones by solves.

    Args:
        system: S stable systems.
        device: as in `hankel_singular_values`.
    """
    target = resolve_device(device)
    if isinstance(system, DenseSystem):
        return np.array([_dense_hinf(system, s) for s in range(system.systems)])

    def task(piece: slice) -> np.ndarray:
        a = torch.from_numpy(system.a[piece]).to(target)
        B = torch.from_numpy(system.B[piece].astype(np.complex128)).to(target)
        C = torch.from_numpy(system.C[piece].astype(np.complex128)).to(target)
        D = torch.from_numpy(system.D[piece]).to(target)
        angle = torch.from_numpy(np.abs(fold(system.a[piece].imag))).to(target)
        omega = _grid(angle, -a.real)
        if system.inputs == system.outputs == 1:

            def gain(w: Tensor) -> Tensor:
                return _scalar_response(a, (C[:, 0] * B[:, :, 0]), D[:, 0, 0], w).abs()
        else:

            def gain(w: Tensor) -> Tensor:
                return _matrix_gain(a, B, C, D, w, rough=w is omega)

        best, peak = _refine(gain, omega)
        if min(system.inputs, system.outputs) > _LARGE:
            best = torch.maximum(best, _matrix_gain(a, B, C, D, peak[:, None], rough=False, exact=True)[:, 0])
        return best.cpu().numpy()

    size = system.slots + min(system.inputs, system.outputs)
    return np.concatenate(parallel(task, batches(system.systems, size, target), target, progress, alone=size > 256))


def _grid(angle: Tensor, damping: Tensor) -> Tensor:
    """(S, F) frequencies in [0, pi], ascending: all pole angles, one bandwidth beside them, and a fixed set."""
    fixed = torch.cat(
        [
            torch.zeros(1, dtype=torch.float64),
            torch.logspace(-5, 0, _COARSE // 2, dtype=torch.float64) * torch.pi,
            torch.linspace(0, 1, _COARSE // 2, dtype=torch.float64) * torch.pi,
        ]
    ).to(angle.device)
    near = torch.cat([angle, angle - damping, angle + damping], dim=1)
    omega = torch.cat([near.clamp(0, torch.pi), fixed.expand(angle.shape[0], -1)], dim=1)
    return omega.sort(dim=1).values


def _refine(gain: Callable[[Tensor], Tensor], omega: Tensor) -> tuple[Tensor, Tensor]:
    """Largest value (S,) of gain(omega), (S, F) -> (S, F), and where: the best grid points, narrowed down."""
    value = gain(omega)
    peaks = value.topk(min(4, value.shape[1]), dim=1).indices
    left = omega.gather(1, (peaks - 1).clamp_min(0))
    right = omega.gather(1, (peaks + 1).clamp_max(omega.shape[1] - 1))
    best, where = value.max(dim=1)
    peak = omega.gather(1, where[:, None]).squeeze(1)
    points = torch.linspace(0, 1, 9, dtype=torch.float64, device=omega.device)
    for _ in range(4):
        fine = left[:, :, None] + (right - left)[:, :, None] * points
        values = gain(fine.flatten(1)).reshape(fine.shape)
        found, where = values.flatten(1).max(dim=1)
        peak = torch.where(found > best, fine.flatten(1).gather(1, where[:, None]).squeeze(1), peak)
        best = torch.maximum(best, found)
        at = values.argmax(dim=2, keepdim=True)
        left = fine.gather(2, (at - 1).clamp_min(0)).squeeze(2)
        right = fine.gather(2, (at + 1).clamp_max(points.shape[0] - 1)).squeeze(2)
    return best, peak


def _resolvent(a: Tensor, omega: Tensor) -> tuple[Tensor, Tensor]:
    """1 / (1 - lambda e^{-i omega}) for a pole and for its mirror image, (S, F, n), without cancellation."""
    x, y = a.real[:, None, :], a.imag[:, None, :]

    def one(sign: float) -> Tensor:
        t = sign * y - omega[:, :, None]
        em = torch.expm1(x)
        return 1.0 / torch.complex(-(em * torch.cos(t) - 2 * torch.sin(t / 2) ** 2), -(1 + em) * torch.sin(t))

    return one(1.0), one(-1.0)


def _scalar_response(a: Tensor, residue: Tensor, D: Tensor, omega: Tensor) -> Tensor:
    """(S, F) complex frequency response of one-input one-output systems."""
    plain, mirror = _resolvent(a, omega)
    total = (plain @ residue[:, :, None] + mirror @ residue.conj()[:, :, None]).squeeze(2) / 2
    return total + D[:, None]


def _matrix_gain(a: Tensor, B: Tensor, C: Tensor, D: Tensor, omega: Tensor, rough: bool, exact: bool = False) -> Tensor:
    """(S, F) largest singular value of the frequency response.

    Large matrices go through power iteration, `rough` to find where they peak, unless `exact`.
    """
    plain, mirror = _resolvent(a, omega)
    systems, count = omega.shape
    p, m = C.shape[1], B.shape[2]
    closed_B = torch.cat([B, B.conj()], 1)
    closed_C = torch.cat([C, C.conj()], 2) / 2
    r = torch.cat([plain, mirror], 2)  # (S, F, 2n)
    out = torch.empty((systems, count), dtype=torch.float64, device=a.device)
    for s in range(systems):
        if min(p, m) > _LARGE and not exact:
            out[s] = _power_gain(closed_C[s], r[s], closed_B[s], D[s], rough)
            continue
        step = max(1, (1 << 22) // (p * m))
        for f in range(0, count, step):
            G = (closed_C[s][None] * r[s, f : f + step, None, :]) @ closed_B[s] + D[s]
            out[s, f : f + step] = torch.linalg.matrix_norm(G, ord=2)
    return out


def _power_gain(C: Tensor, r: Tensor, B: Tensor, D: Tensor, rough: bool) -> Tensor:
    """(F,) norms of C diag(r_f) B + D for large matrices, by power iteration on all frequencies at once."""
    kind, rounds = (torch.complex64, 8) if rough else (torch.complex128, 24)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((B.shape[1], r.shape[0]), dtype=torch.float64, generator=generator).to(B.device).to(kind)
    C, B, D, middle = C.to(kind), B.to(kind), D.to(kind), r.T.contiguous().to(kind)
    skip = bool(D.any())
    norm = torch.zeros(r.shape[0], dtype=torch.float64, device=B.device)
    for _ in range(rounds):
        x = x / x.norm(dim=0, keepdim=True).clamp_min(1e-30)
        y = C @ (middle * (B @ x))
        if skip:
            y = y + D @ x
        norm = y.norm(dim=0).double()
        x = B.mH @ (middle.conj() * (C.mH @ y))
        if skip:
            x = x + D.mH @ y
    return norm


def _dense_hinf(system: DenseSystem, s: int) -> float:
    """H-infinity norm of one dense system by solves on the grid of its eigenvalues."""
    parts = (system.A, system.B, system.C, system.D)
    A, B, C, D = (torch.from_numpy(np.ascontiguousarray(part[s])).to(torch.complex128) for part in parts)
    poles = torch.linalg.eigvals(A)
    log = torch.log(poles.abs().clamp_min(1e-300))
    eye = torch.eye(A.shape[0], dtype=A.dtype)

    def gain(omega: Tensor) -> Tensor:
        turn = torch.exp(-1j * omega[0])[:, None, None]
        G = C @ torch.linalg.solve(eye - turn * A, B.expand(turn.shape[0], -1, -1)) + D
        return torch.linalg.matrix_norm(G, ord=2)[None]

    return float(_refine(gain, _grid(poles.angle().abs()[None], -log[None]))[0][0])
