"""From dense reduced realisations back to poles and residues, checked, and mended where they are ill-conditioned.

A batch goes through one eigendecomposition. Systems whose eigenvectors are ill-conditioned are decomposed anew, one by
one, in whichever of three ways has the least measured error (`lti.perturb`).

Source: docs/numerics.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ssmtool.lti.perturb import PoleResidues, choose, eigen, half
from ssmtool.lti.systems import DiagonalSystem

_WELL_CONDITIONED = 1e6  # condition of the eigenvectors up to which the plain decomposition is not second-guessed


@dataclass(frozen=True)
class Diagonalised:
    """Reduced systems in pole-residue form.

    Attributes:
        system: S systems with as many slots as the widest needs; unused slots have C = 0.
        slots: (S,) int64, slots each system uses: one per complex pair and one per real pole.
        orders: (S,) int64, states of each system.
        method: per system "direct", "perturbed" or "refit".
        error: (S,) largest deviation of the frequency response from the dense realisation relative to its largest gain;
            for well-conditioned eigenvectors the bound condition * eps instead of a measurement.
    """

    system: DiagonalSystem
    slots: np.ndarray
    orders: np.ndarray
    method: tuple[str, ...]
    error: np.ndarray


def diagonalise(A: np.ndarray, B: np.ndarray, C: np.ndarray, D: np.ndarray, orders: np.ndarray) -> Diagonalised:
    """Pole-residue form of the leading orders[s] x orders[s] block of each realisation.

    A truncation with a pole that rounding pushed out of the unit circle is cut one state earlier.

    Args:
        A: (S, k, k), B: (S, k, m), C: (S, p, k), D: (S, p, m) float64. orders: (S,) int64, each <= k.
    """
    systems = A.shape[0]
    pieces: list[tuple | None] = [None] * systems
    orders = orders.copy()
    for r in np.unique(orders):
        if r == 0:
            continue
        index = np.flatnonzero(orders == r)
        lam, X = np.linalg.eig(A[index, :r, :r])
        lam, X = lam.astype(np.complex128), X.astype(np.complex128)
        condition = np.linalg.cond(X)
        usable = condition < 1 / np.finfo(float).eps
        Bd = np.zeros((len(index), r, B.shape[2]), dtype=np.complex128)
        Bd[usable] = np.linalg.solve(X[usable], B[index[usable], :r].astype(np.complex128))
        Cd = C[index, :, :r] @ X
        for k, s in enumerate(index):
            pieces[s] = (lam[k], Bd[k], Cd[k], condition[k])
    none = np.zeros((0, 1), dtype=np.complex128)
    empty = PoleResidues(none[:, 0], none.repeat(B.shape[2], 1), none.T.repeat(C.shape[1], 0), error=0.0)
    chosen = []
    for s in range(systems):
        r = int(orders[s])
        piece = pieces[s]
        while r and (piece is None or np.abs(piece[0]).max() >= 1.0):
            if piece is not None:
                r -= 1
            piece = eigen(A[s, :r, :r], B[s, :r], C[s, :, :r]) if r else None
        orders[s] = r
        if piece is None:
            chosen.append(empty)
        elif piece[3] <= _WELL_CONDITIONED:
            chosen.append(replace(half(*piece[:3]), error=piece[3] * np.finfo(float).eps))
        else:
            chosen.append(choose(A[s, :r, :r], B[s, :r], C[s, :, :r]))
    slots = np.array([len(c.a) for c in chosen], dtype=np.int64)
    methods = tuple(c.way for c in chosen)
    return Diagonalised(_stack(chosen, D), slots, orders, methods, np.array([c.error for c in chosen]))


def _stack(chosen: list[PoleResidues], D: np.ndarray) -> DiagonalSystem:
    """Systems of different slot counts side by side; the padding has B = C = 0 and a harmless pole."""
    systems, width = len(chosen), max([len(c.a) for c in chosen] + [1])
    m, p = D.shape[2], D.shape[1]
    a = np.full((systems, width), -1.0 + 0j)
    B, C = np.zeros((systems, width, m), complex), np.zeros((systems, p, width), complex)
    for s, c in enumerate(chosen):
        a[s, : len(c.a)], B[s, : len(c.a)], C[s, :, : len(c.a)] = c.a, c.B, c.C
    return DiagonalSystem(a, B, C, D)
