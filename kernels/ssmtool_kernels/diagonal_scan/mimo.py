"""Diagonal systems of several inputs and outputs, in chunks of time."""

from __future__ import annotations

from torch import Tensor

from ssmtool_kernels.diagonal_scan.naive import diagonal_scan_naive


def mimo_scan(
    lam: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    u: Tensor,
    x0: Tensor,
    resets: Tensor | None,
    offsets: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return diagonal_scan_naive(lam, B, C, D, u, x0, resets)
