"""Hankel singular values of canonical systems, and their balanced realisations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssmtool.lti import dense
from ssmtool.lti.factors import Progress, Slots, factorised, resolve_device
from ssmtool.lti.kautz import kautz_factor
from ssmtool.lti.minimal import minimal
from ssmtool.lti.spectrum import Spectrum
from ssmtool.lti.systems import DenseSystem, System
from ssmtool_kernels import native
from ssmtool_kernels.backends import resolve
from ssmtool_kernels.hankel import LARGEST, hankel_values


@dataclass(frozen=True)
class Balanced:
    """Leading part of the balanced realisation of a batch of stable systems: both Gramians are diag(sigma).

    The realisation of order r is the leading r x r block, r <= usable.

    Attributes:
        spectrum: all Hankel singular values.
        A: (S, k, k), B: (S, k, m), C: (S, p, k), D: (S, p, m) float64, k the largest order asked for.
        usable: (S,) int64, how many leading states are determined in float64; beyond them sigma is below 1e-14 sigma_1
            and the block is zero.
    """

    spectrum: Spectrum
    A: np.ndarray
    B: np.ndarray
    C: np.ndarray
    D: np.ndarray
    usable: np.ndarray


_COMPILED = {"cpu": 32, "cuda": LARGEST}  # slots up to which Jacobi's method, compiled, is faster than LAPACK
_NEGLIGIBLE = 1e-14  # states with sigma below this share of sigma_1 cannot be told from rounding in a projection


def hankel_singular_values(system: System, device: str = "cpu", progress: Progress | None = None) -> Spectrum:
    """Hankel singular values of every system of a batch, of the real input-output system.

    Diagonal systems: no Gramian is formed; values keep their relative accuracy for one input and one output (down to
    underflow where the compiled kernel runs, a theorem: Demmel 1999), and in practice for several. Dense systems:
    Hammarling factors, accuracy about 1e-15 sigma_1.

    Args:
        system: S systems of order n.
        device: "auto", "cpu" or a torch device.
        progress: called with (systems done, systems).

    Source: docs/numerics.md.
    """
    if isinstance(system, DenseSystem):
        return _dense_spectrum(system, progress)
    target = resolve_device(device)
    reduced = minimal(system)
    sigma = np.zeros((system.systems, system.order))
    (values,) = factorised(reduced, _values, target, progress)
    # Redundant states have sigma 0 by the count that was proven, not by what rounding made of it.
    values[np.arange(values.shape[1]) >= reduced.order[:, None]] = 0.0
    width = min(values.shape[1], system.order)
    sigma[:, :width] = values[:, :width]
    return Spectrum(_with_unstable(sigma, reduced.unstable), reduced.redundant, reduced.unstable)


def balance(system: System, order: int, device: str = "cpu", progress: Progress | None = None) -> Balanced:
    """Balanced realisation of each system, cut after `order` states; the systems must be stable.

    With factors P = L L^T, Q = R R^T and the singular value decomposition R^T L = U S Z^T, the projectors are
    V = L Z S^-1/2 and W = R U S^-1/2.

    Source: Tombs & Postlethwaite, Int. J. Control 46 (1987); docs/numerics.md.
    """
    if isinstance(system, DenseSystem):
        return _dense_balance(system, order, progress)
    target = resolve_device(device)
    reduced = minimal(system)
    order = min(order, 2 * reduced.a.shape[1])
    sigma, A, B, C = factorised(reduced, lambda slots, careful: _project(slots, order, careful), target, progress)
    sigma[np.arange(sigma.shape[1]) >= reduced.order[:, None]] = 0.0
    full = np.zeros((system.systems, system.order))
    width = min(sigma.shape[1], system.order)
    full[:, :width] = sigma[:, :width]
    spectrum = Spectrum(_with_unstable(full, reduced.unstable), reduced.redundant, reduced.unstable)
    usable = np.minimum((sigma > _NEGLIGIBLE * sigma[:, :1]).sum(axis=1), order)
    return Balanced(spectrum, A, B, C, system.D, usable)


def _with_unstable(sigma: np.ndarray, unstable: np.ndarray) -> np.ndarray:
    """sigma with as many infinities in front as there are unstable states (redundant zeros give way)."""
    if not unstable.any():
        return sigma
    out = np.sort(np.where(np.arange(sigma.shape[1]) < sigma.shape[1] - unstable[:, None], sigma, np.inf), axis=1)
    return out[:, ::-1].copy()


def _values(slots: Slots, careful: bool) -> tuple[Tensor]:
    """(s, 2N) singular values of one batch, descending."""
    if careful:
        M = slots.careful()[0]
        return (torch.linalg.svdvals(torch.linalg.qr(_graded(M).cpu()).R.mH),)
    if slots.siso and _compiled(slots):
        return (hankel_values(slots.a, slots.B[:, :, 0], slots.C[:, 0], slots.real),)
    if slots.siso:
        # LAPACK's tridiagonalisation of the lower triangle starts at the large end: graded matrices keep their digits.
        # A GPU's solvers promise nothing of the kind, so this is done on the CPU.
        values = torch.linalg.eigvalsh(_symmetric(slots)[0].cpu(), UPLO="L").abs().sort(dim=1, descending=True).values
        return (torch.nn.functional.pad(values, (0, 2 * slots.a.shape[1] - values.shape[1])),)
    L, R = slots.factors()
    return (torch.linalg.svdvals((R.mT @ L).cpu()),)


def _compiled(slots: Slots) -> bool:
    """Whether the kernel of `ssmtool_kernels.hankel` runs here and is the faster way."""
    device = slots.a.device.type
    if slots.a.shape[1] > _COMPILED.get(device, 0) or (device == "cpu" and native.missing()):
        return False
    return resolve("auto", slots.a) == {"cpu": "cpu", "cuda": "triton"}[device]


def _graded(M: Tensor) -> Tensor:
    """Empty columns moved to the end, so that the rest decreases without gaps."""
    empty = (M.abs().amax(1) == 0).to(torch.int8)
    sort = torch.argsort(empty, dim=1, stable=True)
    return M.gather(2, sort[:, None, :].expand_as(M))


def _symmetric(slots: Slots) -> tuple[Tensor, Tensor, Tensor]:
    """L^T J L, L and the diagonal of J for one input and one output: its eigenvalues are +- the singular values."""
    L = kautz_factor(slots.a, slots.B[:, :, 0].contiguous(), slots.real)
    J = slots.signature()[:, : L.shape[1]]
    return L.mT @ (J[:, :, None] * L), L, J


def _project(slots: Slots, order: int, careful: bool) -> tuple[Tensor, ...]:
    """sigma (s, 2N) and the leading `order` states of the balanced A, B, C of one batch."""
    n = slots.a.shape[1]
    if slots.siso and not careful:
        M, L, J = _symmetric(slots)
        values, U = (x.to(M.device) for x in torch.linalg.eigh(M.cpu(), UPLO="L"))
        rank = values.abs().argsort(dim=1, descending=True)
        sigma = values.abs().gather(1, rank)
        U = U.gather(2, rank[:, None, :order].expand(-1, U.shape[1], -1))
        sign = values.gather(1, rank[:, :order]).sign()
        V = L @ U
        W = J[:, :, None] * V * sign[:, None, :]
        if V.shape[1] == n:
            V, W = (torch.cat([X, torch.zeros_like(X)], 1) for X in (V, W))
    else:
        if careful:
            _, L, R = slots.careful()
        else:
            L, R = slots.factors()
        U, sigma, Zh = torch.linalg.svd(R.mT @ L)
        V, W = L @ Zh.mT[:, :, :order], R @ U[:, :, :order]
    lead = sigma[:, :order]
    keep = lead > _NEGLIGIBLE * sigma[:, :1]
    root = torch.where(keep, lead.clamp_min(1e-300).rsqrt(), torch.zeros_like(lead))
    V, W = V * root[:, None, :], W * root[:, None, :]
    A, B, C = W.mT @ slots.apply_A(V), W.mT @ slots.real_B(), slots.real_C() @ V
    short = order - A.shape[1]
    if short > 0:
        A = torch.nn.functional.pad(A, (0, short, 0, short))
        B, C = torch.nn.functional.pad(B, (0, 0, 0, short)), torch.nn.functional.pad(C, (0, short))
    if sigma.shape[1] < 2 * n:
        sigma = torch.nn.functional.pad(sigma, (0, 2 * n - sigma.shape[1]))
    return sigma[:, : 2 * n], A, B, C


def _dense_spectrum(system: DenseSystem, progress: Progress | None) -> Spectrum:
    sigma = np.zeros((system.systems, system.order))
    unstable = np.zeros(system.systems, dtype=np.int64)
    for s in range(system.systems):
        A, B, C, unstable[s] = dense.stable_part(system.A[s], system.B[s], system.C[s])
        if A.shape[0]:
            L, R = dense.gramian_factors(A, B, C)
            sigma[s, : A.shape[0]] = np.linalg.svd(R.T @ L, compute_uv=False)
        if progress:
            progress(s + 1, system.systems)
    return Spectrum(_with_unstable(sigma, unstable), np.zeros_like(unstable), unstable)


def _dense_balance(system: DenseSystem, order: int, progress: Progress | None) -> Balanced:
    systems, k = system.systems, min(order, system.order)
    sigma = np.zeros((systems, system.order))
    A, B = np.zeros((systems, k, k)), np.zeros((systems, k, system.inputs))
    C = np.zeros((systems, system.outputs, k))
    usable = np.zeros(systems, dtype=np.int64)
    for s in range(systems):
        L, R = dense.gramian_factors(system.A[s], system.B[s], system.C[s])
        U, sigma[s], Zh = np.linalg.svd(R.T @ L)
        usable[s] = r = min(k, int((sigma[s] > _NEGLIGIBLE * sigma[s, 0]).sum()))
        root = 1 / np.sqrt(sigma[s, :r])
        V, W = (L @ Zh.T[:, :r]) * root, (R @ U[:, :r]) * root
        A[s, :r, :r], B[s, :r], C[s, :, :r] = W.T @ system.A[s] @ V, W.T @ system.B[s], system.C[s] @ V
        if progress:
            progress(s + 1, systems)
    zero = np.zeros(systems, dtype=np.int64)
    return Balanced(Spectrum(sigma, zero, zero), A, B, C, system.D, usable)
