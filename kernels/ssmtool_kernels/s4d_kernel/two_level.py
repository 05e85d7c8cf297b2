"""Sums over powers of eigenvalues as matrix products.

With l = q Q + r, lam^l = lam^(qQ) lam^r: sums over modes and over time of c lam^l factor into products of two small
tables, one of Q powers, one of L / Q, so that nothing of the size modes times L is ever made and exponentials are few.
Tables are built in double precision by doubling, from exp(a 2^k): phases are never those of a rounded lam or of a long
chain of products.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class _Powers(torch.autograd.Function):
    """exp(a step k), k = 0 … count - 1. The table is saved, nothing of its making."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, count: int, step: int) -> Tensor:
        wide = a.to(torch.complex128)
        table = torch.ones_like(wide)[..., None]
        while table.shape[-1] < count:
            leap = torch.exp(wide * (step * table.shape[-1]))
            table = torch.cat([table, table[..., : count - table.shape[-1]] * leap[..., None]], dim=-1)
        table = table[..., :count].to(a.dtype)
        ctx.save_for_backward(table)
        ctx.step = step
        return table

    @staticmethod
    def backward(ctx: Any, *lost: Any) -> tuple[Any, ...]:
        (table,) = ctx.saved_tensors
        distance = torch.arange(table.shape[-1], dtype=table.real.dtype, device=table.device) * ctx.step
        return (lost[0] * table.conj() @ distance.to(table.dtype)), None, None


def powers(a: Tensor, count: int, step: int = 1) -> Tensor:
    """exp(a step k) for k = 0 … count - 1.

    Args:
        a: (..., n) complex logarithms of eigenvalues.

    Returns:
        (..., n, count), of a's dtype, right to its last digits however large step * count. Differentiable.
    """
    return _Powers.apply(a, count, step)  # type: ignore[no-any-return]


class _PowersOf(torch.autograd.Function):
    """lam^k, k = 0 … count - 1. The derivative of a power needs the power before it, not a division by lam."""

    @staticmethod
    def forward(ctx: Any, lam: Tensor, count: int) -> Tensor:
        leap = lam.to(torch.complex128)[..., None]
        table = torch.ones_like(leap)
        while table.shape[-1] < count:
            table = torch.cat([table, table[..., : count - table.shape[-1]] * leap], dim=-1)
            leap = leap * leap
        table = table[..., :count].to(lam.dtype)
        ctx.save_for_backward(table)
        return table

    @staticmethod
    def backward(ctx: Any, *lost: Any) -> tuple[Any, ...]:
        (table,) = ctx.saved_tensors
        orders = torch.arange(1, table.shape[-1], dtype=table.real.dtype, device=table.device)
        return (lost[0][..., 1:] * table[..., :-1].conj() @ orders.to(table.dtype)), None


def powers_of(lam: Tensor, count: int) -> Tensor:
    """lam^k for k = 0 … count - 1 by squaring in double precision; lam may be 0.

    Args:
        lam: (..., n) complex eigenvalues.

    Returns:
        (..., n, count), of lam's dtype. Differentiable. Errors grow as count * 1e-16.
    """
    return _PowersOf.apply(lam, count)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Tables:
    """Powers lam^0 … lam^(length - 1) of S systems with n modes in two levels.

    Attributes:
        inner: (S, 2n, Q) real: Re lam^r over -Im lam^r.
        outer: (S, n, q) complex: lam^(qQ).
        length: L <= q Q.
    """

    inner: Tensor
    outer: Tensor
    length: int


def tables(a: Tensor, length: int) -> Tables:
    """Tables of a (S, n) for `length` powers: Q is the power of two above sqrt(length)."""
    inside = 1 << (max(length - 1, 0).bit_length() + 1) // 2
    inner = powers(a, inside)
    outer = powers(a, -(-length // inside), inside)
    return Tables(torch.cat([inner.real, -inner.imag], dim=1), outer, length)


def expand(two: Tables, c: Tensor) -> Tensor:
    """Re sum_n c[n] lam_n^l for every l: coefficients become time.

    Args:
        c: (S, k, n) complex.

    Returns:
        (S, k, L) real.
    """
    systems, rows, _ = c.shape
    left = (c[..., None, :] * two.outer.mT[:, None]).flatten(1, 2)
    made = torch.cat([left.real, left.imag], dim=-1) @ two.inner
    return made.view(systems, rows, two.outer.shape[2] * two.inner.shape[2])[..., : two.length]


def collect(two: Tables, u: Tensor) -> Tensor:
    """sum_l u[l] lam_n^l for every mode: time becomes coefficients.

    Args:
        u: (S, k, l) real, l <= L.

    Returns:
        (S, k, n) complex.
    """
    systems, rows, length = u.shape
    inside = two.inner.shape[2]
    blocks = -(-length // inside)
    padded = torch.nn.functional.pad(u, (0, blocks * inside - length)).reshape(systems, rows * blocks, inside)
    real, imag = (padded @ two.inner.mT).view(systems, rows, blocks, two.inner.shape[1]).chunk(2, dim=-1)
    return (torch.complex(real, -imag) * two.outer.mT[:, None, :blocks]).sum(2)
