"""State-space models of finite impulse responses: balanced truncation of the response, and Kung's method on its lags.

A sequence of lags h_0 ... h_{L-1} is the impulse response of a system with L states, a shift register, in current-input
form h_k = C A^k B. Its Hankel matrix is [h_{i+j}], i, j < L, with zeros beyond the last lag; the singular values of
that matrix are the Hankel singular values of the response. Two readings of the same lags:

balanced    the response ends after the last lag. In the coordinates of the shift register the reachability Gramian is I
            and the observability Gramian H^T H, so that with H = U diag(s) Z^T the truncated balanced realisation is
                A = s^1/2 (Z^T S Z) s^-1/2,   B = s^1/2 Z_0^T,   C = U_0 s^1/2        (S the shift, leading r columns).
            Z^T S Z is a compression of a nilpotent shift: its eigenvalues lie within cos(pi / (L + 1)) < 1 whatever Z,
            and the H-infinity error is at most 2 (s_{r+1} + s_{r+2} + ...).
era         what comes after the last lag is free. A block of about L/2 by L/2 lags, without any zeros, is factored, and
            A is fitted to the shift between the rows of U: exact where the lags are those of a system with r states,
            without a bound, and not necessarily stable.

Sources: Ho & Kalman, Regelungstechnik 14 (1966); Kung, "A new identification and model reduction algorithm via singular
value decompositions", Asilomar 1978; Juang & Pappa, J. Guidance 8 (1985); Moore, IEEE TAC 26 (1981).
"""

from __future__ import annotations

import numpy as np
import torch

from ssmtool.lti.dense import stable_part
from ssmtool.lti.diagonalise import diagonalise
from ssmtool.lti.hankel_matrix import HankelMatrix, Triplets
from ssmtool.lti.kernel_residues import fit_residues
from ssmtool.lti.systems import DenseSystem, DiagonalSystem

_NEGLIGIBLE = 1e-14  # singular values below this share of the largest cannot be told from rounding
_ROUNDING = 4 * 2.0**-24  # norm of a Hankel matrix of single-precision rounding errors, over the root of the energy
_SHIFTED = 1e-12  # as _NEGLIGIBLE, where a shift is fitted between singular vectors: its errors are larger by 1 / s
_SLOWEST = 1e-3  # decay over the length of the response of poles that were moved into the unit circle
_WELL_CONDITIONED = 1e6  # condition of eigenvectors up to which eigenvalues are moved one by one


class Realisation:
    """One impulse response, and its models of any order up to `usable`.

    Args:
        h: (p, m, L) float64.
        count: how many states models may have.
        device: torch device of the decomposition.
        single: whether the lags were rounded to single precision: singular values of the size of that rounding tell
            nothing about a shift.

    Attributes:
        count: as given.
        sigma: (k,) float64, leading Hankel singular values of the response that ends after its last lag.
        tail: (k + 1,) float64; entry r bounds the sum of all but the first r of them.
        complete: whether `sigma` is all of them.
        usable: how many states are determined in float64.
    """

    def __init__(self, h: np.ndarray, count: int, device: str = "cpu", *, single: bool = False) -> None:
        self.h, self.count = h, count
        self._noise = _ROUNDING if single else 0.0
        self._device = torch.device(device)
        length = h.shape[2]
        found = self._triplets(length, length, count)
        self.sigma, self.tail, self.complete = found.s.cpu().numpy(), found.tail.cpu().numpy(), found.complete
        self.usable = _usable(self.sigma, count)
        k = self.usable
        root = np.sqrt(self.sigma[:k])
        Z, first = found.Z[:, :, :k], found.U[0, :, :k]
        A = torch.einsum("imk,iml->kl", Z[1:], Z[:-1]).cpu().numpy()
        self._A = A * (root[:, None] / root)
        self._B, self._C = root[:, None] * Z[0].T.cpu().numpy(), first.cpu().numpy() * root
        self._era: tuple[Triplets, int, int] | None = None

    def truncated(self, order: int) -> DenseSystem:
        """Balanced truncation to `order` <= usable states: one dense system (S = 1), D = 0."""
        r = order
        D = np.zeros((1, *self.h.shape[:2]))
        return DenseSystem(self._A[None, :r, :r], self._B[None, :r], self._C[None, :, :r], D)

    def balanced(self, order: int) -> DiagonalSystem:
        """The same as poles and residues; at most `order` states."""
        return _diagonal(self.truncated(order))

    def era(self, order: int) -> list[tuple[DiagonalSystem, int]]:
        """Kung's model with at most `order` states in some variants, each with how many poles were moved for it.

        Poles that come out on or outside the unit circle are left out, or put just inside, where they decay by a
        thousandth over the length of the response. The residues are those of the method, or fitted to the lags by least
        squares (`fit_residues`). Which variant is best depends on what it is rounded to.
        """
        length = self.h.shape[2]
        if self._era is None:
            rows = (length + 1) // 2
            found = self._triplets(rows, length + 1 - rows, self.count)
            s = found.s.cpu().numpy()
            most = min(_usable(s, self.count, _SHIFTED), (found.U.shape[0] - 1) * found.U.shape[1])
            self._era = found, most, int((s > self._noise * np.linalg.norm(self.h)).sum())
        found, most, signal = self._era
        r = min(order, most, signal)
        if r == 0:
            return [(_diagonal(self.truncated(0)), 0)]
        variants = self._variants(found, r)
        if any(moved for _, moved in variants):
            # Poles outside are often those of rounding errors: fewer states may do better, or many that share them.
            others = {r - -(-r // 8), r - -(-r // 4), min(order, most)} - {0, r}
            for other in sorted(others):
                variants += self._variants(found, other)
        return variants

    def _variants(self, found: Triplets, r: int) -> list[tuple[DiagonalSystem, int]]:
        U, s = found.U[:, :, :r].cpu().numpy(), found.s[:r].cpu().numpy()
        p, flat, root = U.shape[1], U.reshape(-1, r), np.sqrt(s)
        A = np.linalg.lstsq(flat[:-p], flat[p:], rcond=None)[0] * (root / root[:, None])
        B, C = root[:, None] * found.Z[0, :, :r].T.cpu().numpy(), U[0] * root
        limit = np.exp(-_SLOWEST / self.h.shape[2])
        inside, moved = _inside(A, limit)
        realisations = [(inside, B, C, moved)]
        if moved:
            scaled, left, right, _ = stable_part(A / limit, B, C)
            realisations.insert(0, (limit * scaled, left, right, 0))
        variants = []
        for A, B, C, count in realisations:
            plain = _diagonal(DenseSystem(A[None], B[None], C[None], np.zeros((1, p, B.shape[1]))))
            variants += [(system, count) for system in (plain, *fit_residues(plain, self.h))]
        return variants

    def _triplets(self, rows: int, columns: int, count: int) -> Triplets:
        return HankelMatrix(torch.from_numpy(self.h).to(self._device), rows, columns).triplets(count)


def _usable(s: np.ndarray, count: int, share: float = _NEGLIGIBLE) -> int:
    """How many of `count` states have a singular value above a share of the largest."""
    return min(count, int((s > share * s[:1]).sum()))


def _diagonal(system: DenseSystem) -> DiagonalSystem:
    return diagonalise(system.A, system.B, system.C, system.D, np.array([system.order])).system


def _inside(A: np.ndarray, limit: float) -> tuple[np.ndarray, int]:
    """A with its eigenvalues of modulus above `limit` moved to that modulus, and how many there were."""
    lam, X = np.linalg.eig(A)
    size = np.abs(lam)
    outside = size > limit
    if not outside.any():
        return A, 0
    if np.linalg.cond(X) > _WELL_CONDITIONED:
        return A * (limit / size.max()), int(outside.sum())
    lam = np.where(outside, lam * (limit / np.where(outside, size, 1.0)), lam)
    return np.linalg.solve(X.T, (X * lam).T).T.real, int(outside.sum())
