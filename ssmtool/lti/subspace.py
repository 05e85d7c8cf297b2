"""Subspace identification: the extended observability matrix of a system from records of its inputs and outputs.

With block Hankel matrices of i past and i future steps, U_p, Y_p, U_f, Y_f, the triangular factor

    [U_f; U_p; Y_p; Y_f] = L Q,      rows of L:  [L11], [L21 L22], [L31 L32 L33] for U_f, (U_p, Y_p), Y_f,

holds all that the method needs; it is built up in pieces, so that records may be long. The part of Y_f that the past
explains beyond the future inputs, L32, has the range of the extended observability matrix O = [C; C A; C A^2; ...],
blurred by noise that averages out as records grow. Three weightings of it are in use, and none is always best:

moesp   L32                                     Verhaegen, Automatica 30 (1994), past inputs and outputs as instruments
n4sid   L32 L22^+ [L21 L22]                     Van Overschee & De Moor, Automatica 30 (1994)
cva     (L32 L32^T + L33 L33^T)^-1/2 L32        Larimore 1990

Inputs and noise have to be independent (no feedback). Survey: Van Overschee & De Moor, Subspace Identification for
Linear Systems, Kluwer 1996.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssmtool.errors import DataError

WEIGHTINGS = ("moesp", "n4sid", "cva")
_EXCITED = 1e-9  # smallest singular value of the inputs' block Hankel matrix, relative, that counts as excitation
_EXACT = 1e-10  # share of Y_f that nothing explains below which there is no noise to weigh with
_PIECE = 4096  # columns taken up at a time


@dataclass(frozen=True)
class Compressed:
    """Records reduced to the triangular factor.

    Attributes:
        horizon: i, steps of past and of future.
        inputs, outputs: m, p.
        L: (2 i (m + p), 2 i (m + p)) float64, lower triangular, rows in the order U_f, U_p, Y_p, Y_f.
    """

    horizon: int
    inputs: int
    outputs: int
    L: np.ndarray

    @property
    def excitation(self) -> int:
        """Numerical rank of the inputs' part: 2 i m for inputs that excite everything."""
        n = 2 * self.horizon * self.inputs
        s = np.linalg.svd(self.L[:n, :n], compute_uv=False)
        return int((s > _EXCITED * s[0]).sum()) if s[0] > 0 else 0

    def observability(self, weighting: str) -> tuple[np.ndarray, np.ndarray]:
        """Singular vectors scaled to (i p, i p) with the range of O in the leading columns, and the singular values."""
        future, past = self.horizon * self.inputs, self.horizon * (2 * self.inputs + self.outputs)
        L32, L33 = self.L[past:, future:past], self.L[past:, past:]
        if weighting == "n4sid":
            L22 = self.L[future:past, future:past]
            full = L32 @ np.linalg.pinv(L22, rcond=1e-11) @ self.L[future:past, :past]
            U, s, _ = np.linalg.svd(full, full_matrices=False)
        elif weighting == "cva" and np.linalg.norm(L33) > _EXACT * np.linalg.norm(self.L[past:]):
            values, vectors = np.linalg.eigh(L32 @ L32.T + L33 @ L33.T)
            values = np.maximum(values, 1e-14 * values[-1])
            U, s, _ = np.linalg.svd((vectors / np.sqrt(values)) @ vectors.T @ L32, full_matrices=False)
            U = (vectors * np.sqrt(values)) @ vectors.T @ U
        else:
            U, s, _ = np.linalg.svd(L32, full_matrices=False)
        return U * np.sqrt(s), s


def compress(records: Sequence[tuple[np.ndarray, np.ndarray]], horizon: int) -> Compressed:
    """The triangular factor of all records together.

    Args:
        records: (u, y) of shapes (L, m) and (L, p) float64; lengths may differ.
        horizon: steps of past and of future.

    Raises:
        DataError: fewer columns than rows.
    """
    i, m, p = horizon, records[0][0].shape[1], records[0][1].shape[1]
    rows = 2 * i * (m + p)
    columns = sum(max(0, len(u) - 2 * i + 1) for u, _ in records)
    if columns < rows:
        raise DataError(
            f"{columns} windows of {2 * i} steps are too few: {rows} are needed with {m} inputs and {p} outputs",
            remedy="Record longer, or ask for a smaller --order or --horizon",
        )
    R = np.zeros((0, rows))
    for u, y in records:
        if len(u) < 2 * i:
            continue
        U, Y = (np.lib.stride_tricks.sliding_window_view(x, 2 * i, axis=0) for x in (u, y))  # (columns, m | p, 2 i)
        for start in range(0, len(U), _PIECE):
            past_u, future_u = (_flat(U[start : start + _PIECE, :, part]) for part in (slice(None, i), slice(i, None)))
            past_y, future_y = (_flat(Y[start : start + _PIECE, :, part]) for part in (slice(None, i), slice(i, None)))
            block = np.hstack([future_u, past_u, past_y, future_y])
            R = np.asarray(np.linalg.qr(np.concatenate([R, block]), mode="r"))
    return Compressed(i, m, p, R.T / np.sqrt(columns))


def _flat(windows: np.ndarray) -> np.ndarray:
    """(columns, channels, steps) -> (columns, steps * channels), a step's channels together."""
    return windows.transpose(0, 2, 1).reshape(len(windows), -1)


def poles_and_outputs(observability: np.ndarray, order: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    """A (n, n) and C (p, n) from the leading `order` columns of the extended observability matrix, by its shift."""
    O = observability[:, :order]
    return np.linalg.lstsq(O[:-outputs], O[outputs:], rcond=None)[0], O[:outputs]


def contracted(observability: np.ndarray, order: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    """The same with zeros shifted in at the end: biased, and stable always.

    Source: Maciejowski, "Guaranteed stability with subspace methods", Systems & Control Letters 26 (1995).
    """
    O = observability[:, :order]
    shifted = np.concatenate([O[outputs:], np.zeros((outputs, order))])
    return np.linalg.lstsq(O, shifted, rcond=None)[0], O[:outputs]


def suggested_order(s: np.ndarray, most: int) -> int:
    """Where the singular values fall most, s_r / s_{r+1} largest, 1 <= r <= most."""
    floor = np.maximum(s, 1e-13 * s[0])
    return int(np.argmax(floor[:most] / floor[1 : most + 1])) + 1
