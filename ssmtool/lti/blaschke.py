"""Gramian factors pole by pole in complex arithmetic: the reference algorithm, and the careful one.

Slower than `kautz` and `potapov`, which take conjugate pairs as a whole; unlike them it pivots on single poles, so a
pair that almost coincides with itself (a nearly real pole stored as complex) costs no accuracy.

Source: docs/numerics.md (Potapov factors along u; for one input, plain Blaschke quotients).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssmtool.lti.potapov import complex_expm1


def conjugate_closed(a: Tensor, B: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Poles (S, 2N) and rows (S, 2N, m) of the closed system in coordinates (z, conj z) / sqrt 2.

    A real slot has no mirror image: its second row is 0.
    """
    mirror = torch.where(real[:, :, None], torch.zeros_like(B), B.conj())
    half = torch.where(real[:, :, None], B, B / 2**0.5)
    return torch.cat([a, a.conj()], 1), torch.cat([half, mirror / 2**0.5], 1)


def real_factor(L: Tensor, real: Tensor) -> Tensor:
    """Real factor (S, 2N, 2k) in coordinates (Re x, Im x) from a complex one (S, 2N, k) of the closed system."""
    slots = real.shape[1]
    z, mirror = L[:, :slots], L[:, slots:]
    keep = real[:, :, None]
    re = torch.where(keep, z, (z + mirror) / 2**0.5)
    im = torch.where(keep, torch.zeros_like(z), (z - mirror) * (-1j / 2**0.5))
    rows = torch.cat([re, im], dim=1)
    return torch.cat([rows.real, rows.imag], dim=2)


def blaschke_factor(a: Tensor, B: Tensor) -> Tensor:
    """Factor L of P = A P A* + B B*, A = diag(exp a), columns by decreasing pivot.

    Args:
        a: (S, n) complex128, logarithms of distinct stable poles.
        B: (S, n, m) complex128; zero rows are skipped.

    Returns:
        (S, n, n) complex128; columns beyond the rank are 0.
    """
    systems, order, inputs = B.shape
    batch = torch.arange(systems, device=a.device)
    lam, weight = torch.exp(a), -torch.expm1(2 * a.real)
    g = B.clone()
    factor = torch.zeros((systems, order, order), dtype=a.dtype, device=a.device)
    used = torch.zeros((systems, order), dtype=torch.bool, device=a.device)
    for k in range(order):
        d = torch.where(used, 0.0, g.abs().square().sum(2) / weight)
        j = torch.argmax(d, dim=1)
        dj = d[batch, j]
        live = (dj > 0)[:, None]
        used[batch, j] = True
        gj = g[batch, j]
        size = gj.norm(dim=1, keepdim=True).clamp_min(1e-300)
        u = gj.conj() / size
        c = (g @ u[:, :, None])[:, :, 0]
        aj, lj = a[batch, j][:, None], lam[batch, j][:, None]
        den = -complex_expm1(a + aj.conj())
        slower = a.real <= aj.real
        gap = torch.where(slower, a - aj, aj - a)
        num = torch.where(slower, lj, -lam) * complex_expm1(gap)
        column = c * size / den / dj.clamp_min(1e-300).sqrt()[:, None]
        column[batch, j] = dj.sqrt().to(column.dtype)
        before = used.clone()
        before[batch, j] = False
        factor[:, :, k] = torch.where(live & ~before, column, torch.zeros_like(column))
        if inputs == 1:
            g = torch.where(live[:, :, None], g * (num / den)[:, :, None], g)
        else:
            g = g + torch.where(live, c * (num / den - 1), torch.zeros_like(c))[:, :, None] * u.conj()[:, None, :]
    return factor
