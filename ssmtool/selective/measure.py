"""What a reduced mixer does differently from its original on the same input."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssmtool.selective.forward import forward
from ssmtool.selective.mixers import Mixer


@dataclass
class Difference:
    """Sums over tokens; relative errors are square roots of ratios.

    Attributes:
        scan: squared error of the scan output, weighted by what the original's gate, norm and out_proj make of it.
        scan_energy: the same of the original's scan output without its D term.
        out: squared error of what the mixers add.  out_energy: the same of the original.
    """

    scan: float = 0.0
    scan_energy: float = 0.0
    out: float = 0.0
    out_energy: float = 0.0

    @torch.no_grad()
    def update(self, originals: tuple[Mixer, ...], reduced: tuple[Mixer, ...], x: Tensor) -> Tensor:
        """Add a batch of layer inputs x (b, L, d); returns what the originals add."""
        before = after = torch.zeros_like(x)
        for original, smaller in zip(originals, reduced, strict=True):
            out, _, trace = forward(original, x)
            other, _, changed = forward(smaller, x)
            columns = original.out[:, -original.channels :].square().sum(0)
            weights = trace.gain.square() * columns
            skipped = trace.x * original.d_skip
            self.scan += _weighted(trace.y - changed.y, weights)
            self.scan_energy += _weighted(trace.y - skipped, weights)
            before, after = before + out, after + other
        self.out += (before - after).double().square().sum().item()
        self.out_energy += before.double().square().sum().item()
        return before

    @property
    def scan_error(self) -> float:
        """Relative weighted error of the scan output."""
        return _root(self.scan, self.scan_energy)

    @property
    def out_error(self) -> float:
        """Relative error of what the layer adds to the residual stream."""
        return _root(self.out, self.out_energy)


def _weighted(y: Tensor, weights: Tensor) -> float:
    return (y.reshape(weights.shape).double().square() * weights).sum().item()


def _root(part: float, whole: float) -> float:
    return (part / whole) ** 0.5 if whole > 0 else 0.0
