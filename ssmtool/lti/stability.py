"""Which systems of a batch are stable."""

from __future__ import annotations

import numpy as np

from ssmtool.lti.systems import DiagonalSystem, System


def unstable_states(system: System) -> np.ndarray:
    """(S,) int64, states of each real input-output system with an eigenvalue of modulus >= 1."""
    if isinstance(system, DiagonalSystem):
        return (system.a.real >= 0).sum(axis=1) * (1 if system.real else 2)
    return (np.abs(np.linalg.eigvals(system.A)) >= 1).sum(axis=1)
