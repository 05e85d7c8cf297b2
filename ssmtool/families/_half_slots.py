"""Diagonal layers that store one of each conjugate pair and return 2 Re sum_n C_n B_n bbar_n exp(a_n k): S4D and S4."""

from __future__ import annotations

import numpy as np

from ssmtool.errors import FamilyError
from ssmtool.families._arrays import array_namespace, as_complex, zeros
from ssmtool.families._discretise import discretise, undiscretise
from ssmtool.lti.systems import DiagonalSystem

_PADDING = -1.0  # log of the eigenvalue written in a slot without output: any comfortable decay does


def to_canonical(
    disc: str, lam: np.ndarray, dt: np.ndarray, c: np.ndarray, D: np.ndarray, real: bool = False
) -> DiagonalSystem:
    """Continuous poles and folded output weights -> canonical system with B = 1 and C = 2 c bbar.

    Args:
        disc: "zoh" or "bilinear".
        lam: (H, n) complex128 continuous eigenvalues.
        dt: (H, 1) or (H, n) float64 steps.
        c: (K, H, n) stored C times stored B.
        D: (rows, H) float64; rows beyond it up to K belong to the backward direction and are zero.
        real: the slots are real states.

    Returns:
        DiagonalSystem with H systems, 1 input, K outputs.
    """
    a, bbar = discretise(disc, lam, dt)
    xp = array_namespace(a)
    C = as_complex(xp.permute_dims(2 * c * bbar, (1, 0, 2)))
    return DiagonalSystem(a=a, B=xp.ones_like(a)[..., None], C=C, D=feedthrough(D, c.shape[0]), real=real)


def feedthrough(D: np.ndarray, outputs: int) -> np.ndarray:
    """Stored (rows, H) -> (H, outputs, 1); rows beyond the stored ones, of the backward direction, are zero."""
    xp = array_namespace(D)
    stored = xp.permute_dims(D, (1, 0))[:, :, None]
    return xp.concat([stored, zeros((D.shape[1], outputs - D.shape[0], 1), D)], axis=1)


def from_canonical(disc: str, system: DiagonalSystem, dt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Canonical system -> continuous poles and the folded output weights to store; inverse of `to_canonical`.

    Slots without any output or input are padding: they get a harmless pole and zero weight.

    Args:
        disc: "zoh" or "bilinear".
        system: H systems with 1 input and n' slots, Re a < 0.
        dt: (H, 1) float64.

    Returns:
        lam (H, n') complex128 and c (K, H, n') complex128, c = C B / (2 bbar).
    """
    weight = np.swapaxes(system.C * system.B[:, None, :, 0], 0, 1)  # (K, H, n')
    used = np.any(weight != 0, axis=0)
    lam, bbar = undiscretise(disc, np.where(used, system.a, _PADDING), dt)
    return lam, weight / (2 * bbar)


def changed_feedthrough(name: str, stored: np.ndarray, system: DiagonalSystem) -> dict[str, np.ndarray]:
    """{"D": new D} if the system's D differs from the stored (rows, H) one, else {}.

    Args:
        name: full name of the tensor, for the message.

    Raises:
        FamilyError: a feedthrough in the backward direction, which has no place in the checkpoint.
    """
    rows, D = stored.shape[0], system.D[:, :, 0].T
    if np.any(D[rows:]):
        raise FamilyError("the backward direction cannot store a feedthrough", where=name)
    return {} if np.array_equal(D[:rows], stored) else {"D": D[:rows].copy()}
