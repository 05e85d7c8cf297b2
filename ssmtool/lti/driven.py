"""Factors of the covariance of the states that recorded inputs drive: reachability as a layer meets it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ssmtool.lti.horizon import compress
from ssmtool.lti.realisation import Realisation

_ENTRIES = 1 << 20  # numbers of one block of states, 8 MiB: larger ones leave the cache


def driven_factor(system: Realisation, inputs: np.ndarray) -> Tensor:
    """L (S, n, k) float64, k <= n, with L L^T = mean over sequences and steps of x x^T, from rest.

    White noise of unit variance gives the reachability Gramian, up to sampling and the start from rest.

    Args:
        system: S systems of n states.
        inputs: (K, S, L, m) float64.
    """
    sequences, systems, length, _ = inputs.shape
    n = system.B.shape[1]
    L = system.B.new_zeros((systems, n, 0))
    step = max(1, _ENTRIES // (systems * length * n))
    for start in range(0, sequences, step):
        u = torch.from_numpy(np.ascontiguousarray(inputs[start : start + step].swapaxes(0, 1))).to(L.device)
        L = compress(torch.cat([L, system.states(u).flatten(1, 2).mT], dim=2))
    return L / (sequences * length) ** 0.5
