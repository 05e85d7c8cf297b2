"""Hankel singular values by products and quotients, pole by pole in complex arithmetic, and Jacobi's method.

With b = +-c the observability Gramian is the mirror image of the reachability Gramian P = L L*, so that the singular
values are those of M = L^T s L, s the signs. Nothing is subtracted on the way to L that could cancel, the columns of L
come out graded, and what follows keeps the relative accuracy of every value.

Sources: Demmel, SIAM J. Matrix Anal. Appl. 21 (1999); Haut & Beylkin, ibid. 33 (2012); Drmač & Veselić, ibid. 29
(2008); docs/numerics.md.
"""

from __future__ import annotations

import torch
from torch import Tensor

SWEEPS = 30  # of Jacobi's method at most; it takes less than ten


def hankel_values_naive(a: Tensor, root: Tensor, negative: Tensor, real: Tensor) -> Tensor:
    """Singular values of y = Re(C x), x[k] = exp(a) x[k-1] + B u[k], of distinct stable poles.

    Args:
        a: (S, N) complex128, logarithms of poles, one of each conjugate pair.
        root: (S, N) complex128 with root^2 = C B, up to a sign on real poles; 0 switches a slot off.
        negative: (S, N) bool, real poles with C B < 0.
        real: (S, N) bool, slots that are one real state.

    Returns:
        (S, 2N) float64, descending, 0 beyond the order.
    """
    alone = torch.where(real, root, root / 2**0.5)
    b = torch.cat([alone, torch.where(real, torch.zeros_like(root), alone.conj())], 1)
    sign = torch.where(torch.cat([negative, negative], 1), -1.0, 1.0).to(b.dtype)
    X, size = _scaled(blaschke_factor(torch.cat([a, a.conj()], 1), b))
    # Columns of M divided by their size; the rows stay graded, largest first.
    M = size[:, :, None] * (X.mT @ (sign[:, :, None] * X))
    R, order = pivoted_qr(M, size)
    size = size.gather(1, order)
    Y, scale = _scaled(R.mT * (size[:, :, None] / size[:, None, :].clamp_min(1e-300)))
    return jacobi(Y, scale * size).sort(dim=1, descending=True).values


def expm1(z: Tensor) -> Tensor:
    """exp(z) - 1 for complex z without cancellation near 0."""
    x, y = z.real.contiguous(), z.imag.contiguous()
    grown = torch.expm1(x)
    return torch.complex(grown * torch.cos(y) - 2 * torch.sin(y / 2) ** 2, (1 + grown) * torch.sin(y))


def blaschke_factor(a: Tensor, b: Tensor) -> Tensor:
    """L (S, n, n) with P = L L*, P_ij = b_i conj(b_j) / (1 - exp(a_i + conj a_j)); columns by decreasing pivot.

    The next pole is the one with the largest diagonal entry left (complete pivoting); what is left of b is multiplied
    by its Blaschke factor.
    """
    rows = torch.arange(len(a), device=a.device)
    weight = -torch.expm1(2 * a.real)
    lam, left = torch.exp(a), b.clone()
    used = torch.zeros_like(weight)
    columns = []
    for _ in range(a.shape[1]):
        j = torch.argmax(left.abs() ** 2 / weight - used, dim=1)
        used[rows, j] = 1e300
        pole = a[rows, j][:, None]
        inverse = -1 / expm1(a + pole.conj())
        columns.append(left * inverse * weight[rows, j].sqrt()[:, None])
        slower = a.real <= pole.real  # the difference of poles without overflow
        gap = torch.where(slower, torch.exp(pole), -lam) * expm1(torch.where(slower, a - pole, pole - a))
        left = torch.where(left[rows, j][:, None] == 0, left, left * gap * inverse)
    return torch.stack(columns, dim=2)


def _scaled(X: Tensor) -> tuple[Tensor, Tensor]:
    """Columns divided by their largest entry, and those; 0 where a column is 0."""
    size = X.abs().amax(1)
    return X / torch.where(size > 0, size, torch.ones_like(size))[:, None, :], size


def pivoted_qr(M: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """R (S, n, n) of the Householder QR factorisation of M, and the order (S, n) its columns were taken in.

    Args:
        M: (S, n, n), rows graded. size: (S, n), what the norms of columns are multiplied by to choose the largest left.
    """
    systems, n, _ = M.shape
    rows = torch.arange(systems, device=M.device)
    M = M.clone()
    order = torch.arange(n, device=M.device).expand(systems, n).clone()
    for k in range(n):
        left = torch.linalg.vector_norm(M[:, k:, k:], dim=1) * size.gather(1, order[:, k:])
        j = k + torch.argmax(left, dim=1)
        for x in (M.mT, order):
            first, best = x[:, k].clone(), x[rows, j].clone()
            x[rows, j], x[:, k] = first, best
        v = M[:, k:, k].clone()
        norm = torch.linalg.vector_norm(v, dim=1)
        phase = torch.where(v[:, 0] == 0, torch.ones_like(v[:, 0]), v[:, 0] / v[:, 0].abs().clamp_min(1e-300))
        v[:, 0] += phase * norm
        # v* v / 2; a column of zeros is left as it is.
        half = norm * v[:, 0].abs()
        v = v / torch.where(half > 0, half, torch.ones_like(half)).sqrt()[:, None]
        M[:, k:, k:] -= v[:, :, None] * (v.conj()[:, None, :] @ M[:, k:, k:])
    return torch.triu(M), order


def schedule(n: int) -> list[list[tuple[int, int]]]:
    """Every pair out of n (even) once, in n - 1 rounds of n / 2 disjoint pairs."""
    turn = n - 1
    return [
        [(turn, r), *(((r + k) % turn, (r - k) % turn) for k in range(1, n // 2))]
        for r in range(turn)
    ]  # fmt: skip


def jacobi(Y: Tensor, scale: Tensor) -> Tensor:
    """Singular values (S, n), unsorted, of Y diag(scale), by one-sided rotations of pairs of columns.

    A pair is left alone if the cosine of its angle is below n eps. The scales stay apart, so that squares of small
    columns do not underflow; n is even.
    """
    n = Y.shape[2]
    tolerance = n * torch.finfo(scale.dtype).eps
    Y, scale = Y.clone(), scale.clone()
    for _ in range(SWEEPS):
        turned = False
        norm = torch.linalg.vector_norm(Y, dim=1)
        norm = torch.where(norm > 0, norm, torch.ones_like(norm))
        Y, scale = Y / norm[:, None, :], scale * norm
        for pairs in schedule(n):
            first, second = torch.tensor(pairs, device=Y.device).T
            swap = scale[:, second] > scale[:, first]
            i, j = torch.where(swap, second, first), torch.where(swap, first, second)
            yi, yj = (Y.gather(2, index[:, None, :].expand(-1, n, -1)) for index in (i, j))
            ratio = scale.gather(1, j) / scale.gather(1, i).clamp_min(1e-320)
            alpha, beta = yi.abs().square().sum(1), yj.abs().square().sum(1)
            dot = (yi.conj() * yj).sum(1)
            gamma = dot.abs()
            turn = gamma > tolerance * (alpha * beta).sqrt()
            if not bool(turn.any()):
                continue
            turned = True
            gap = alpha - ratio**2 * beta
            root = (gap**2 + 4 * (ratio * gamma) ** 2).sqrt()
            u = torch.where(turn, 2 * gamma / (gap.abs() + root), 0.0) * torch.where(gap < 0, -1.0, 1.0)
            t = ratio * u
            cosine = (1 + t * t).rsqrt()
            phase = torch.where(turn, (dot / gamma.clamp_min(1e-300)), torch.ones_like(dot))
            yj = yj * phase.conj()[:, None, :]
            new_i, new_j = cosine[:, None] * (yi + (ratio * t)[:, None] * yj), cosine[:, None] * (yj - u[:, None] * yi)
            Y = Y.scatter(2, i[:, None, :].expand(-1, n, -1), new_i)
            Y = Y.scatter(2, j[:, None, :].expand(-1, n, -1), new_j)
        if not turned:
            break
    return torch.linalg.vector_norm(Y, dim=1) * scale
