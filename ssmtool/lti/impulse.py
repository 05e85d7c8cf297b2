"""Impulse and frequency responses of canonical systems, straight from their definition."""

from __future__ import annotations

import numpy as np

from ssmtool.lti.systems import DiagonalSystem, System


def impulse_response(system: System, length: int) -> np.ndarray:
    """h[k] = C A^k B for k = 0 … length-1, plus D at k = 0; real part taken for diagonal systems.

    Returns:
        (S, p, m, length) float64.
    """
    if isinstance(system, DiagonalSystem):
        powers = np.exp(system.a[:, :, None] * np.arange(length))  # (S, n, L)
        h = np.einsum("spn,snm,snl->spml", system.C, system.B, powers, optimize=True).real
    else:
        x = system.B
        terms = []
        for _ in range(length):
            terms.append(system.C @ x)
            x = system.A @ x
        h = np.stack(terms, axis=-1)
    h = np.ascontiguousarray(h)
    h[..., 0] += system.D
    return h
