"""Gramian factors of single-input systems in real arithmetic, by products and quotients alone.

For a diagonal A the reachability Gramian P_ij = b_i conj(b_j) / (1 - lambda_i conj(lambda_j)) is Cauchy-like: in the
orthonormal rational basis whose poles are those of the system (Takenaka-Malmquist; Kautz for conjugate pairs) its
factor is known in closed form, entry by entry, with no subtraction that could cancel. Choosing the next pole by the
largest remaining diagonal entry makes this the pivoted Cholesky factorisation that was never formed.

Sources: docs/numerics.md; Demmel, SIAM J. Matrix Anal. Appl. 21 (1999); Haut & Beylkin, ibid. 33 (2012);
Kautz, Trans. IRE CT-1 (1954). Letters as there.
"""

from __future__ import annotations

import torch
from torch import Tensor


def kautz_factor(a: Tensor, b: Tensor, real: Tensor) -> Tensor:
    """Factor L of the reachability Gramian P = L L^T in real coordinates (Re x_1 … Re x_N, Im x_1 … Im x_N).

    Args:
        a: (S, N) complex128, logarithms of distinct stable poles, 0 <= Im a (mod 2 pi) <= pi.
        b: (S, N) complex128, input coefficients; 0 switches a slot off. Real slots have real b.
        real: (S, N) bool, slots that are one real state.

    Returns:
        (S, 2N, 2N) float64, columns in pivot order (descending); for batches of real slots only, (S, N, N). A real slot
        among pairs leaves its imaginary row and its second column 0; such columns are moved to the end.
    """
    if bool(real.all()):
        return _all_real(a, b)
    x, theta = a.real.contiguous(), a.imag.contiguous()
    em, modulus = torch.expm1(x), torch.exp(x)
    cos, sin = torch.cos(theta), torch.sin(theta)
    sin2, cos2 = torch.sin(theta / 2) ** 2, torch.cos(theta / 2) ** 2

    # For every pole j (dim 1) and evaluation point lambda_i (dim 2), with y = theta_i -+ theta_j:
    #   lambda_i - lambda_j           ~ n = p cos(y/2) + i q sin(y/2)
    #   1 - lambda_i conj(lambda_j)   ~ d = e cos(y/2) + i f sin(y/2)
    # up to unit factors that cancel or are restored.
    p, q, e, f = _moduli(x, em, modulus)
    half_i, half_j = theta[:, None, :] / 2, theta[:, :, None] / 2
    y = half_i - half_j
    sh, ch = torch.sin(y), torch.cos(y)
    n1, d1 = torch.complex(p * ch, q * sh), torch.complex(e * ch, f * sh)
    y = half_i + half_j
    sh, ch = torch.sin(y), torch.cos(y)
    n2, d2 = torch.complex(p * ch, q * sh), torch.complex(e * ch, f * sh)

    inverse = 1.0 / (d1 * d2)
    real_j = real[:, :, None]
    blaschke = n1 * n2 * inverse
    lam = torch.complex(modulus * cos, modulus * sin)
    turn_i = torch.complex(cos, -sin)[:, None, :]
    # Two orthonormal functions per pair: (1 - beta lambda) and lambda over (1 - l conj(l_j))(1 - l l_j), beta =
    # 2 Re(l_j) / (1 + |l_j|^2). 1 - beta lambda is built from 1 -+ lambda and 1 -+ beta, whichever do not cancel.
    square = modulus * modulus
    one_minus_beta = (em * em + 4 * modulus * sin2) / (1 + square)
    one_plus_beta = (em * em + 4 * modulus * cos2) / (1 + square)
    positive = (cos >= 0)[:, :, None]
    away = torch.where(positive, (2 * sin2 - em * cos)[:, None, :], (2 * modulus * cos2 - em)[:, None, :])
    swing = torch.where(positive, -lam.imag[:, None, :], lam.imag[:, None, :])
    step = torch.where(positive, one_minus_beta[:, :, None], -one_plus_beta[:, :, None])
    first = torch.complex(away + step * lam.real[:, None, :], swing + step * lam.imag[:, None, :])
    gain = torch.sqrt(-torch.expm1(4 * x))
    common = inverse * turn_i
    psi1 = gain[:, :, None] * first * common
    psi2 = (gain * torch.sqrt(one_minus_beta * one_plus_beta))[:, :, None] * lam[:, None, :] * common
    if bool(real.any()):
        # A real pole: one function sqrt(1 - l^2) / (1 - l lambda_i); y was theta_i - theta_j, theta_j in {0, pi}.
        blaschke = torch.where(real_j, n1 / d1, blaschke)
        unit = torch.complex(torch.cos(half_i - half_j), -torch.sin(half_i - half_j))
        single = -torch.sqrt(-torch.expm1(2 * x))[:, :, None] * unit / d1
        psi1 = torch.where(real_j, single, psi1)
        psi2 = torch.where(real_j, torch.zeros_like(psi2), psi2)

    order, g = _pivot(b, -torch.expm1(2 * x), blaschke)
    rows = torch.arange(a.shape[0], device=a.device)[:, None]
    columns = torch.stack([g * psi1[rows, order], g * psi2[rows, order]], dim=2).flatten(1, 2)  # (S, 2N, N)
    factor = torch.cat([columns.real, columns.imag], dim=2).transpose(1, 2)
    # Empty columns between full ones would spoil the grading that the eigenvalue solvers rely on.
    empty = torch.stack([g.abs().amax(2) == 0, real.gather(1, order) | (g.abs().amax(2) == 0)], 2).flatten(1, 2)
    if bool(empty.any()):
        sort = torch.argsort(empty.to(torch.int8), dim=1, stable=True)
        factor = factor.gather(2, sort[:, None, :].expand_as(factor))
    return factor


def _moduli(x: Tensor, em: Tensor, modulus: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """p, q, e, f of `kautz_factor`: (S, N, N), pole along dim 1, evaluation point along dim 2."""
    gap = x[:, None, :] - x[:, :, None]
    below = torch.expm1(-gap.abs())
    largest = torch.maximum(modulus[:, None, :], modulus[:, :, None])
    p = largest * -below * torch.sign(gap)
    q = largest * (2 + below)
    e = em[:, None, :] + em[:, :, None] * (1 + em[:, None, :])  # expm1(x_i + x_j), both terms negative
    return p, q, e, 2 + e


def _pivot(b: Tensor, weight: Tensor, blaschke: Tensor) -> tuple[Tensor, Tensor]:
    """Greedy order of the poles and the coefficients left when each is reached.

    Args:
        b: (S, N) coefficients. weight: (S, N), 1 - |lambda_i|^2. blaschke: (S, N, N), factor of pole dim 1 at dim 2.

    Returns:
        order (S, N) int64; g (S, N, N): row k holds b_i times the Blaschke factors of the k poles before it. An
        eliminated pole is exactly 0 from then on, because its own factor is.
    """
    systems, slots = b.shape
    rows = torch.arange(systems, device=b.device)
    order = torch.empty((systems, slots), dtype=torch.int64, device=b.device)
    g = torch.empty((systems, slots, slots), dtype=blaschke.dtype, device=b.device)
    current = b.to(blaschke.dtype)
    used = torch.zeros((systems, slots), dtype=weight.dtype, device=b.device)
    inverse = 1.0 / weight
    for k in range(slots):
        size = torch.view_as_real(current).square().sum(-1) if current.is_complex() else current.square()
        j = torch.argmax(size * inverse - used, dim=1)
        order[:, k], g[:, k] = j, current
        used[rows, j] = 1e300
        current = current * blaschke[rows, j]
    return order, g


def _all_real(a: Tensor, b: Tensor) -> Tensor:
    """`kautz_factor` for real poles only: everything is real, one function per pole."""
    x = a.real.contiguous()
    sign = torch.where(torch.cos(a.imag) >= 0, 1.0, -1.0).to(x.dtype)
    em, modulus = torch.expm1(x), torch.exp(x)
    p, q, e, f = _moduli(x, em, modulus)
    same = sign[:, None, :] == sign[:, :, None]
    # Poles of opposite sign stand half a turn apart: cosine and sine change places.
    blaschke = torch.where(same, p / e, q / f)
    kernel = 1.0 / torch.where(same, -e, f)
    order, g = _pivot(b.real.contiguous(), -torch.expm1(2 * x), blaschke)
    rows = torch.arange(a.shape[0], device=a.device)[:, None]
    psi = torch.sqrt(-torch.expm1(2 * x))[:, :, None] * kernel
    return (g * psi[rows, order]).transpose(1, 2)
