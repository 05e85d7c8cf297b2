"""Gramian factors of systems with several inputs, in real arithmetic, one conjugate pair at a time.

The matrix form of `kautz`: eliminating a pole multiplies the remaining rows of B by an inner (Blaschke-Potapov) factor
that acts in the two-dimensional space spanned by the pole's own row. Work is O(n r m) for n states, rank r, m inputs.
Batches of small systems go through together; for many inputs see `block_potapov`.

Sources: docs/numerics.md; Potapov, AMS Transl. 15 (1960); Kailath & Sayed, SIAM Review 37 (1995), section 7.
"""

from __future__ import annotations

import torch
from torch import Tensor


def potapov_factor(a: Tensor, B: Tensor, real: Tensor) -> Tensor:
    """Factor L of the reachability Gramian P = L L^T in real coordinates (Re x_1 … Re x_N, Im x_1 … Im x_N).

    Args:
        a: (S, N) complex128, logarithms of distinct stable poles, one per pair.
        B: (S, N, m) complex128; zero rows switch a slot off. Real slots have real rows.
        real: (S, N) bool, slots that are one real state.

    Returns:
        (S, 2N, 2N) float64, columns in pivot order; a real slot leaves its imaginary row and second column 0.
    """
    systems, slots, inputs = B.shape
    batch = torch.arange(systems, device=a.device)
    lam = torch.exp(a)
    weight = -torch.expm1(2 * a.real)
    G = torch.cat([B.real, B.imag], dim=1).contiguous()  # (S, 2N, m), updated in place
    factor = G.new_zeros((systems, 2 * slots, 2 * slots))
    used = torch.zeros((systems, slots), dtype=torch.bool, device=a.device)
    diagonal = _diagonal(G, weight)
    for k in range(slots):
        j = torch.argmax(torch.where(used, -1.0, diagonal), dim=1)
        used[batch, j] = True
        pair = torch.stack([j, j + slots], dim=1)[:, :, None]
        row = G.gather(1, pair.expand(-1, -1, inputs))  # (S, 2, m): Re and Im of the pivot's row
        E = _plane(row)  # (S, m, 2)
        c = G @ E
        gamma = row @ E  # (S, 2, 2)
        psi, change = _inner(a, lam, a[batch, j], gamma, real[batch, j])
        c_complex = torch.complex(c[:, :slots], c[:, slots:])
        column = (c_complex[:, :, None, :] @ psi).squeeze(2)
        column[used & (torch.arange(slots, device=a.device) != j[:, None])] = 0
        factor[:, :slots, 2 * k : 2 * k + 2] = column.real
        factor[:, slots:, 2 * k : 2 * k + 2] = column.imag
        update = (c_complex[:, :, None, :] @ change).squeeze(2)
        update = torch.cat([update.real, update.imag], dim=1)
        G += update @ E.mT
        diagonal = _diagonal(G, weight)
    empty = factor.abs().amax(1) == 0
    sort = torch.argsort(empty.to(torch.int8), dim=1, stable=True)
    return factor.gather(2, sort[:, None, :].expand_as(factor))


def _diagonal(G: Tensor, weight: Tensor) -> Tensor:
    """(S, N): diagonal of the Gramian that is left, |g_i|^2 / (1 - |lambda_i|^2)."""
    square = G.square().sum(2)
    return (square[:, : weight.shape[1]] + square[:, weight.shape[1] :]) / weight


def _plane(row: Tensor) -> Tensor:
    """Real orthonormal basis (S, m, 2) of the span of two rows (S, 2, m); the second is 0 if they are parallel."""
    size = row.norm(dim=2)
    swap = (size[:, 1] > size[:, 0])[:, None]
    first, second = torch.where(swap, row[:, 1], row[:, 0]), torch.where(swap, row[:, 0], row[:, 1])
    e1 = first / first.norm(dim=1, keepdim=True).clamp_min(1e-300)
    rest = second
    for _ in range(2):
        rest = rest - (rest * e1).sum(1, keepdim=True) * e1
    left = rest.norm(dim=1, keepdim=True)
    e2 = torch.where(
        left > 1e-12 * second.norm(dim=1, keepdim=True), rest / left.clamp_min(1e-300), torch.zeros_like(rest)
    )
    return torch.stack([e1, e2], dim=2)


def _inner(a: Tensor, lam: Tensor, pole: Tensor, gamma: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """The inner factor that eliminates one pole, evaluated at every pole.

    Args:
        a, lam: (S, N) logarithms and values of all poles. pole: (S,) logarithm of the pivot.
        gamma: (S, 2, 2) Re (first row) and Im (second row) of the pivot's row in the plane's coordinates.
        real: (S,) pivots that are one real state.

    Returns:
        psi (S, N, 2, 2) complex128: coefficients of the new factor columns; theta - I (S, N, 2, 2) complex128.
    """
    g = torch.complex(gamma[:, 0], gamma[:, 1])
    beta = torch.exp(pole)
    # The pivot's own 2x2 Gramian in coordinates (Re, Im), its Cholesky factor K, and the pair in coordinates where the
    # Gramian is the identity: there (A_K, G_K) is part of an orthogonal matrix, which is completed to the inner factor.
    p1 = g.abs().square().sum(1) / -torch.expm1(2 * pole.real)
    p2 = (g * g).sum(1) / -complex_expm1(2 * pole)
    k11 = ((p1 + p2.real) / 2).clamp_min(1e-300).sqrt()
    k21 = p2.imag / 2 / k11
    k22 = ((p1 - p2.abs()) * (p1 + p2.abs())).clamp_min(0.0).sqrt() / 2 / k11
    k22 = torch.maximum(k22, 1e-16 * k11)
    zero = torch.zeros_like(k11)
    K = torch.stack([torch.stack([k11, zero], 1), torch.stack([k21, k22], 1)], 1)
    # A_K - I and 1 - lambda instead of A_K and lambda: for slow poles near 1 their sums do not cancel.
    step = complex_expm1(pole)
    away = torch.stack([torch.stack([step.real, -step.imag], 1), torch.stack([step.imag, step.real], 1)], 1)
    joint = torch.linalg.solve_triangular(K, torch.cat([away @ K, gamma], dim=2), upper=False)  # (S, 2, 4)
    F, Ct = joint[:, :, :2].mT, joint[:, :, 2:].mT
    complete = torch.linalg.qr(torch.cat([F + torch.eye(2, dtype=F.dtype, device=F.device), Ct], 1), mode="complete").Q
    Bo, Do = complete[:, :2, 2:], complete[:, 2:, 2:]
    det = complex_expm1(a + pole[:, None]) * complex_expm1(a + pole.conj()[:, None])
    left = -complex_expm1(a)  # 1 - lambda
    adjugate = torch.stack(
        [
            torch.stack([left - lam * F[:, None, 1, 1], lam * F[:, None, 0, 1]], 2),
            torch.stack([lam * F[:, None, 1, 0], left - lam * F[:, None, 0, 0]], 2),
        ],
        2,
    )
    psi = (Ct.to(lam.dtype)[:, None] @ adjugate) / det[:, :, None, None]
    theta = Do.to(lam.dtype)[:, None] + lam[:, :, None, None] * (psi @ Bo.to(lam.dtype)[:, None])
    eye = torch.eye(2, dtype=lam.dtype, device=lam.device)
    change = theta - eye
    if bool(real.any()):
        kernel = 1.0 / -complex_expm1(a + pole.conj()[:, None])
        single = torch.zeros_like(psi)
        single[:, :, 0, 0] = torch.sqrt(-torch.expm1(2 * pole.real))[:, None] * kernel
        elementary = torch.zeros_like(change)
        # (lambda - beta) / (1 - beta lambda) - 1 in the direction of the row; the difference without cancellation
        slower = a.real <= pole.real[:, None]
        gap = complex_expm1(torch.where(slower, a - pole[:, None], pole[:, None] - a))
        elementary[:, :, 0, 0] = torch.where(slower, beta[:, None], -lam) * gap * kernel - 1
        mask = real[:, None, None, None]
        psi, change = torch.where(mask, single, psi), torch.where(mask, elementary, change)
    return psi, change


def complex_expm1(z: Tensor) -> Tensor:
    """exp(z) - 1 for complex z without cancellation near 0."""
    x, y = z.real.contiguous(), z.imag.contiguous()  # strided views would be evaluated number by number
    grown = torch.expm1(x)
    return torch.complex(grown * torch.cos(y) - 2 * torch.sin(y / 2) ** 2, (1 + grown) * torch.sin(y))
