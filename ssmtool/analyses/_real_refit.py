"""What complex poles buy: the error of the best fit found with as many real poles.

Real poles are chosen one after the other from a dictionary of positive and negative ones at log-spaced half-lives, by
orthogonal matching pursuit on the impulse response; residues are least squares. Directions that float32 weights could
not carry, below 1e-7 of the unit-norm dictionary column, are not used: real parametrisations reach oscillating
responses only with residues that grow exponentially, and those cannot be stored or learned.

Source: Ran-Milo et al., "Provable benefits of complex parameterizations for structured state space models", NeurIPS
2024.
"""

from __future__ import annotations

import numpy as np

from ssmtool.lti.impulse import impulse_response
from ssmtool.lti.stability import unstable_states
from ssmtool.lti.systems import DiagonalSystem, without_feedthrough

LENGTH = 1024  # steps of the impulse response that are fitted
_POLES = 192  # of each sign
_CARRIED = 1e-7


def real_refit_error(system: DiagonalSystem) -> np.ndarray:
    """(S,) relative error over the first LENGTH steps, largest energy share first; infinite for an unstable system.

    Args:
        system: one input per system; outputs are fitted with common poles.
    """
    h = impulse_response(without_feedthrough(system), LENGTH)[:, :, 0]  # (S, p, L)
    columns = _dictionary()
    found = np.where(unstable_states(system) > 0, np.inf, 0.0)
    for s in np.flatnonzero(np.isfinite(found)):
        found[s] = _pursue(columns, h[s].T, system.order)
    return found


def _dictionary() -> np.ndarray:
    """(LENGTH, 2 x _POLES + 1) responses of unit norm: of a pole 0, and of +- 2^(-1 / half-life)."""
    half_life = np.geomspace(0.1, 8 * LENGTH, _POLES)
    modulus = 2.0 ** (-1 / half_life)
    steps = np.arange(LENGTH)
    positive = modulus[None] ** steps[:, None]
    columns = np.concatenate([np.eye(LENGTH, 1), positive, positive * np.where(steps % 2, -1.0, 1.0)[:, None]], axis=1)
    return columns / np.linalg.norm(columns, axis=0)


def _pursue(columns: np.ndarray, wanted: np.ndarray, order: int) -> float:
    """Relative residual of (L, p) after `order` columns."""
    energy = float(np.square(wanted).sum())
    if energy == 0:
        return 0.0
    rest, left = columns.copy(), wanted.copy()
    for _ in range(min(order, columns.shape[1])):
        size = np.linalg.norm(rest, axis=0)
        usable = size > _CARRIED
        if not usable.any():
            break
        unit = np.where(usable, rest / np.where(usable, size, 1.0), 0.0)
        q = unit[:, np.argmax(np.square(unit.T @ left).sum(axis=1))]
        left -= np.outer(q, q @ left)
        rest -= np.outer(q, q @ rest)
    return float(np.sqrt(np.square(left).sum() / energy))
