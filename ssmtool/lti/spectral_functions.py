"""Scalar functions of Hankel singular values that pull towards few large ones, and their derivatives.

    sum       sum_i sigma_i                         the nuclear norm of the Hankel operator
    log       sum_i log(1 + sigma_i / scale)        nearly counts the values above `scale`
    tail      sum_{i > order} sigma_i               leaves the largest `order` values alone
    entropy   -sum_i p_i log p_i,  p = sigma / sum sigma      does not change when the system is scaled

A sum of f(sigma_i) with the same f has a derivative wherever no sigma is 0, equal values or not. The tail has none
where sigma_order = sigma_{order+1}: the cut through such a cluster follows the basis that the decomposition returned,
which gives a subgradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssmtool.errors import UsageError

KINDS = ("sum", "log", "tail", "entropy")


@dataclass(frozen=True)
class SpectralFunction:
    """One of KINDS with its parameter.

    Attributes:
        kind: one of KINDS.
        scale: of "log", in the units of sigma (a gain), positive.
        order: of "tail", states of the real system that are free of charge; below 1, a share of all of them.

    Raises:
        UsageError: an unknown kind, or a parameter out of range.
    """

    kind: str = "sum"
    scale: float = 1e-2
    order: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"there is no penalty {self.kind!r}", remedy=f"Kinds: {', '.join(KINDS)}")
        if not 0 < self.scale < float("inf"):
            raise UsageError(f"scale {self.scale:g} of the penalty is not a positive number")
        if not (0 <= self.order < 1 or (self.order >= 1 and float(self.order).is_integer())):
            raise UsageError(
                f"order {self.order:g} of the penalty is neither a share below 1 nor a number of states",
                remedy="0.1 leaves a tenth of the states alone, 16 leaves sixteen",
            )

    def __call__(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Values and derivatives.

        Args:
            sigma: (S, n) float64, descending.

        Returns:
            (S,) values, and (S, n) derivatives with respect to each sigma.
        """
        if self.kind == "log":
            return torch.log1p(sigma / self.scale).sum(1), 1 / (self.scale + sigma)
        if self.kind == "tail":
            free = self.order * sigma.shape[1] if self.order < 1 else self.order
            charged = (torch.arange(sigma.shape[1], device=sigma.device) >= round(free)).to(sigma.dtype)
            return (sigma * charged).sum(1), charged.expand_as(sigma)
        if self.kind == "entropy":
            total = sigma.sum(1, keepdim=True)
            share = sigma / torch.where(total > 0, total, 1.0)
            logarithm = torch.log(torch.where(share > 0, share, 1.0))
            value = -(share * logarithm).sum(1, keepdim=True)
            slope = torch.where(share > 0, -(logarithm + value) / torch.where(total > 0, total, 1.0), 0.0)
            return value[:, 0], slope
        return sigma.sum(1), torch.ones_like(sigma)
