"""Functions of Hankel singular values of diagonal systems, with gradients in closed form.

With balanced projectors V, W (W^T V = I, W^T P W = V^T Q V = diag sigma) a simple singular value moves by

    d sigma_i = 1/2 w_i^T dP w_i + 1/2 v_i^T dQ v_i,

so d sum f(sigma_i) = 1/2 <W F W^T, dP> + 1/2 <V F V^T, dQ> with F = diag f'(sigma_i). Nothing divides by
sigma_i - sigma_j: for equal f' within a cluster of equal values the sum does not depend on the basis. P and Q are
functions of a, B and C in closed form (docs/numerics.md), which is differentiated by hand; no eigenvalue or singular
value decomposition is.

Everything happens in float64 on the CPU, whatever the tensors' dtype and device: the matrices are small, and a GPU's
solvers for small eigenproblems are slow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssmtool.errors import UnstableError, UsageError
from ssmtool.lti.blaschke import blaschke_factor, conjugate_closed, real_factor
from ssmtool.lti.factors import gramian_factor, parallel
from ssmtool.lti.kautz import kautz_factor
from ssmtool.lti.potapov import complex_expm1
from ssmtool.lti.spectral_functions import SpectralFunction

# States with sigma below this share of sigma_1 are rounding of exactly redundant ones, and do not pull.
_NEGLIGIBLE = 1e-13
_SILENT = 1e-130  # stands for a zero residue of a single-input single-output slot, so that its direction is known
_GRADED = 1e-4  # smallest pivot of a correlation matrix for which plain Cholesky keeps enough digits
_NEARLY_REAL = 1e-4
_TOGETHER = 1 << 15  # systems x slots^2 in one task: few enough for the cache, enough for the overhead of a call


def hankel_penalty(
    a: Tensor,
    B: Tensor,
    C: Tensor,
    kind: str = "sum",
    real: bool = False,
    *,
    scale: float = 1e-2,
    order: float = 0.1,
) -> Tensor:
    """Sum over systems of a function of their Hankel singular values, differentiable in a, B and C.

    The singular values are those of the real input-output system x[k] = exp(a) x[k-1] + B u[k], y[k] = Re(C x[k]);
    a slot is two states, or one if `real`. Zero rows of B and columns of C are allowed: their gradient is the
    derivative of the nonzero values. Values below 1e-13 of a system's largest count, but have no gradient.

    Args:
        a: (S, n) complex, logarithms of the eigenvalues.
        B: (S, n, m) complex.
        C: (S, p, n) complex.
        kind: "sum", "log", "tail" or "entropy", see `spectral_functions`.
        real: every slot is one real state: exp(a), B and C are real.
        scale: of "log".
        order: of "tail".

    Returns:
        () float64 on the device of a.

    Raises:
        UnstableError: an eigenvalue on or outside the unit circle.
        UsageError: numbers that are not finite, or a kind or parameter out of range.
    """
    return attached(a, B, C, evaluate(a, B, C, SpectralFunction(kind, scale, order), real)).sum()


@dataclass(frozen=True)
class Penalised:
    """Values of a function of the Hankel singular values, and their gradients: g with d value = Re sum conj(g) dx.

    Attributes:
        value: (S,) float64.  a: (S, n).  B: (S, n, m).  C: (S, p, n) complex128; all on the CPU, without history.
    """

    value: Tensor
    a: Tensor
    B: Tensor
    C: Tensor


def evaluate(a: Tensor, B: Tensor, C: Tensor, function: SpectralFunction, real: bool) -> Penalised:
    """Values and gradients of every system by itself. Arguments and errors as in `hankel_penalty`."""
    a, B, C = (x.detach().to("cpu", torch.complex128).resolve_conj().contiguous() for x in (a, B, C))
    check_finite_and_stable(a, B, C)
    one = _siso if B.shape[2] == C.shape[1] == 1 else _mimo
    step = max(1, _TOGETHER // a.shape[1] ** 2)
    pieces = [slice(i, min(i + step, len(a))) for i in range(0, len(a), step)]

    def run(piece: slice) -> tuple[Tensor, ...]:
        with torch.no_grad():  # a thread of its own
            return one(a[piece], B[piece], C[piece], function, real)

    parts = parallel(run, pieces, torch.device("cpu"), alone=True)
    return Penalised(*(torch.cat(part) for part in zip(*parts, strict=True)))


def attached(a: Tensor, B: Tensor, C: Tensor, known: Penalised) -> Tensor:
    """The values as a function of a, B and C that has the gradients known: (S,) float64 on the device of a."""
    return cast(Tensor, _Attached.apply(a, B, C, known))


class _Attached(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, B: Tensor, C: Tensor, known: Penalised) -> Tensor:
        pairs = ((known.a, a), (known.B, B), (known.C, C))
        ctx.save_for_backward(*(g.to(x.device, x.dtype) for g, x in pairs))
        return known.value.to(a.device)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        ga, gB, gC = ctx.saved_tensors
        factor = grads[0].to(ga.real.dtype)
        return factor[:, None] * ga, factor[:, None, None] * gB, factor[:, None, None] * gC, None


def check_finite_and_stable(a: Tensor, B: Tensor, C: Tensor, where: str = "") -> None:
    """Raises UsageError for numbers that are not finite, UnstableError for |exp a| >= 1; `where` names the layer."""
    for name, x in (("a", a), ("B", B), ("C", C)):
        bad = int((~torch.isfinite(x)).sum())
        if bad:
            raise UsageError(
                f"{bad} numbers of {name} are NaN or infinite",
                where=where,
                remedy="Lower the learning rate, or clip gradients",
            )
    unstable = int((a.real >= 0).sum())
    if unstable:
        raise UnstableError(
            f"{unstable} of {a.numel()} stored eigenvalues are on or outside the unit circle: their Hankel singular "
            "values are infinite",
            where=where,
            remedy="Use a parametrisation that keeps poles inside, or clamp them after each step",
        )


def _siso(a: Tensor, B: Tensor, C: Tensor, function: SpectralFunction, real: bool) -> tuple[Tensor, ...]:
    """One input, one output: with b = +-c the Gramians are mirror images, and sigma = |eig(L^T J L)|."""
    b, c = B[:, :, 0], C[:, 0]
    residue = b * c
    if real:
        sign = torch.where(residue.real < 0, -1.0, 1.0).to(torch.float64)
        root = residue.real.abs().sqrt().to(residue.dtype)
        J = sign
    else:
        sign = torch.ones_like(residue.real)
        root = torch.sqrt(residue)
        J = torch.cat([sign, -sign], 1)
    silent = root == 0
    root = torch.where(silent, _SILENT * root.abs().amax(1, keepdim=True).clamp_min(1e-20), root)
    flags = torch.full(a.shape, real, dtype=torch.bool)
    L = kautz_factor(a, root, flags)
    values, E = torch.linalg.eigh(L.mT @ (J[:, :, None] * L), UPLO="L")
    sigma = torch.where(values.abs() < _SILENT, 0.0, values.abs())
    descending, rank = sigma.sort(dim=1, descending=True)
    value, slope = function(descending)
    slope = slope.gather(1, rank.argsort(dim=1))
    W = J[:, :, None] * (L @ E)
    ga, gb = _pull(_kernels(a), root[:, :, None], _weighted(W, sigma, slope))
    # The value depends on the residues alone: d/d(b c) = (d/db) / c at the scaled pair (root, sign * root).
    by_residue = gb[:, :, 0] / (sign * root).conj()
    gB, gC = c.conj() * by_residue, b.conj() * by_residue
    return value, torch.where(silent, 0.0, 2 * ga), gB[:, :, None], gC[:, None]


def _mimo(a: Tensor, B: Tensor, C: Tensor, function: SpectralFunction, real: bool) -> tuple[Tensor, ...]:
    """Any number of inputs and outputs, slots scaled to rows and columns of equal norm."""
    rows, columns = torch.linalg.vector_norm(B, dim=2), torch.linalg.vector_norm(C, dim=1)
    audible = (rows > 0) & (columns > 0)
    scale = torch.where(audible, torch.sqrt(columns / torch.where(audible, rows, 1.0)), 1.0)
    B, Ct = scale[:, :, None] * B, (C / scale[:, None]).mT.contiguous()
    kernels = _kernels(a)
    L, R = _factor(a, B, kernels, real), _factor(a, Ct, kernels, real)
    J = torch.ones(L.shape[1], dtype=torch.float64)
    J[a.shape[1] :] = -1.0
    R = J[:, None] * R
    U, sigma, Zh = torch.linalg.svd(R.mT @ L, full_matrices=False)
    value, slope = function(sigma)
    ga, gB = _pull(kernels, B, _weighted(R @ U, sigma, slope))
    dual, gCt = _pull(kernels, Ct, _weighted(J[:, None] * (L @ Zh.mT), sigma, slope))
    return value, ga + dual, scale[:, :, None] * gB, gCt.mT / scale[:, None]


def _factor(a: Tensor, B: Tensor, kernels: tuple[Tensor, Tensor], real: bool) -> Tensor:
    """L (S, n or 2n, k), P = L L^T in real coordinates: by Cholesky where P allows it, else without forming P."""
    n = a.shape[1]
    P = _gramian(kernels, B)
    P = P[:, :n, :n] if real else P
    diagonal = P.diagonal(dim1=1, dim2=2)
    empty = diagonal <= 0  # a state that nothing reaches: its row of L is zero
    size = torch.where(empty, 1.0, diagonal).sqrt()
    correlation = P / size[:, :, None] / size[:, None, :] + torch.diag_embed(empty.to(P.dtype))
    K, failed = torch.linalg.cholesky_ex(correlation)
    pivots = K.diagonal(dim1=1, dim2=2).square()
    if not bool(failed.any()) and bool((pivots > _GRADED).all()):
        return torch.where(empty, 0.0, size)[:, :, None] * K
    flags = torch.full(a.shape, real, dtype=torch.bool)
    if not real and bool(_nearly_real(a).any()):
        # A pair that all but coincides with itself cannot be eliminated as one: pole by pole, columns compressed.
        L = real_factor(blaschke_factor(*conjugate_closed(a, B, flags)), flags)
        return torch.linalg.qr(L.mT).R.mT
    L = gramian_factor(a, B, flags)
    return L[:, :n] if real else L


def _nearly_real(a: Tensor) -> Tensor:
    """(S, n) bool, |lambda - conj lambda| small against |1 - lambda^2|."""
    return 2 * torch.exp(a.real) * torch.sin(a.imag).abs() < _NEARLY_REAL * complex_expm1(2 * a).abs()


def _kernels(a: Tensor) -> tuple[Tensor, Tensor]:
    """(S, n, n) 1 / (1 - lambda_i conj(lambda_j)) and 1 / (1 - lambda_i lambda_j)."""
    return -1 / complex_expm1(a[:, :, None] + a.conj()[:, None]), -1 / complex_expm1(a[:, :, None] + a[:, None])


def _gramian(kernels: tuple[Tensor, Tensor], B: Tensor) -> Tensor:
    """P (S, 2n, 2n) in real coordinates (Re x, Im x)."""
    K1, K2 = kernels
    P1, P2 = K1 * (B @ B.mH), K2 * (B @ B.mT)
    total, gap = (P1 + P2) / 2, (P1 - P2) / 2
    return torch.cat([torch.cat([total.real, -gap.imag], 2), torch.cat([total.imag, gap.real], 2)], 1)


def _weighted(X: Tensor, sigma: Tensor, slope: Tensor) -> Tensor:
    """X diag(f'(sigma) / sigma) X^T over the values that are not negligible."""
    kept = sigma > _NEGLIGIBLE * sigma.amax(1, keepdim=True)
    weight = torch.where(kept, slope / torch.where(kept, sigma, 1.0), 0.0)
    return (X * weight[:, None]) @ X.mT


def _pull(kernels: tuple[Tensor, Tensor], B: Tensor, M: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient in a and B of 1/2 <M, P(a, B)> for a symmetric M in real coordinates (Re x, Im x), or (Re x) alone.

    P is made of P1 = K1 o (B B*) and P2 = K2 o (B B^T), K the kernels above, and dK = K (K - 1) (da_i + da_j).

    Returns:
        (S, n) and (S, n, m) complex, g with d = Re sum conj(g) dx.
    """
    K1, K2 = (K.conj() for K in kernels)
    n = B.shape[1]
    if M.shape[1] == n:
        N1 = N2 = M.to(B.dtype)
    else:
        re, im = M[:, :n, :n], M[:, n:, n:]
        cross = M[:, n:, :n]
        N1 = torch.complex(re + im, cross - cross.mT)
        N2 = torch.complex(re - im, cross + cross.mT)
    T1, T2 = N1 * K1, N2 * K2
    gB = (T1 @ B + T2 @ B.conj()) / 2
    drift = T1 * (K1 - 1) * (B.conj() @ B.mT) + T2 * (K2 - 1) * (B.conj() @ B.mH)
    return drift.sum(2) / 2, gB
