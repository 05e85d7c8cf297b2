"""Factors of Gramians over a band of frequencies, by quadrature that is exact to rounding.

P = 1/(2 pi) ∫ H H* d omega over low <= |omega| <= high, H = (I - A e^{-i omega})^{-1} B. Both signs of omega together
are real, and each node of a Gauss-Legendre rule contributes the real and the imaginary part of one H: a factor of P,
without forming P. The closed form through logarithms gives P itself, whose factorisation would cost half the digits.
Panels are halved until no pole is closer than a panel's width; 16 nodes then leave less than rounding.

Sources: docs/reductions-weighted.md; Gawronski & Juang, Int. J. Systems Science 21 (1990).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ssmtool.lti.horizon import compress
from ssmtool.lti.realisation import Realisation

_NODES = 16
_CLOSE = 0.5  # half width of a panel over its centre's distance to the next pole: errors fall like 3.7^(-2 nodes)
_WIDEST = np.pi / 8
_COLUMNS = 512  # of the factor that are compressed at a time


def band_factor(system: Realisation, low: float, high: float) -> Tensor:
    """L (S, n, k) float64, k <= n, with P = L L^T.

    The observability factor is that of `system.dual()`.

    Args:
        system: S stable systems of n states.
        low, high: 0 <= low < high <= pi, radians per step.
    """
    angle, damping = (x.cpu().numpy() for x in system.poles())
    rules = [_rule(angle[s], damping[s], low, high) for s in range(len(angle))]
    count = max(len(omega) for omega, _ in rules)
    # Systems need different numbers of nodes: the rest have weight 0.
    omega = np.stack([np.pad(nodes, (0, count - len(nodes)), constant_values=low) for nodes, _ in rules])
    root = np.stack([np.pad(np.sqrt(weight / np.pi), (0, count - len(weight))) for _, weight in rules])
    device, n = system.B.device, system.B.shape[1]
    L = system.B.new_zeros((len(rules), n, 0))
    step = max(1, _COLUMNS // (2 * system.B.shape[2]))
    for start in range(0, count, step):
        X = system.resolvent(torch.from_numpy(omega[:, start : start + step]).to(device))
        X = X * torch.from_numpy(root[:, start : start + step]).to(device)[:, :, None, None]
        X = X.transpose(1, 2).flatten(2)
        L = compress(torch.cat([L, X.real, X.imag], dim=2))
    return L


def _rule(angle: np.ndarray, damping: np.ndarray, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of a composite Gauss-Legendre rule on [low, high], graded towards the poles of one system."""
    poles = np.concatenate([angle, -angle, 2 * np.pi - angle]) + 1j * np.tile(np.maximum(damping, 1e-16), 3)
    edges = np.linspace(low, high, 1 + int(np.ceil((high - low) / (2 * _WIDEST))))
    left, right, done = edges[:-1], edges[1:], []
    while len(left):
        middle, half = (left + right) / 2, (right - left) / 2
        distance = np.abs(middle[:, None] - poles).min(axis=1)
        fine = half <= np.maximum(_CLOSE * distance, 4 * np.finfo(float).eps)
        done.append(np.stack([middle[fine], half[fine]]))
        left, middle, right = left[~fine], middle[~fine], right[~fine]
        left, right = np.concatenate([left, middle]), np.concatenate([middle, right])
    middle, half = np.concatenate(done, axis=1)
    node, weight = np.polynomial.legendre.leggauss(_NODES)
    return (middle[:, None] + half[:, None] * node).ravel(), (half[:, None] * weight).ravel()
