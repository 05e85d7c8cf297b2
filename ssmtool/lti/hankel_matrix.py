"""The Hankel matrix [h_{i+j}] of a sequence of lags, multiplied by FFT and never formed where it is large."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import fft
from torch import Tensor

DENSE = 512  # rows or columns up to which the matrix is formed and decomposed completely
_WIDTH = 4  # vectors of a Lanczos block: as many equal singular values are told apart
_RESIDUAL = 1e-9  # of an eigenpair relative to the largest value; the values themselves are better by its square
_COUNTED = 1e-13  # share of the sum of squares that rounding may hide
_MOST = 8  # vectors per triplet asked for, and
_LEAST = 512  # vectors at least, before the iteration takes what it has


@dataclass(frozen=True)
class Triplets:
    """Leading singular triplets of a block Hankel matrix, H Z = U diag(s).

    Attributes:
        U: (rows, p, k), Z: (columns, m, k) float64, orthonormal as (rows p) x k and (columns m) x k matrices.
        s: (k,) float64, descending.
        tail: (k + 1,) float64, entry r is at least s_{r+1} + s_{r+2} + ... over all singular values, found or not.
        complete: whether every singular value was found; `tail` is then their sum itself.
    """

    U: Tensor
    s: Tensor
    Z: Tensor
    tail: Tensor
    complete: bool


class HankelMatrix:
    """The block Hankel matrix with entries h_{i+j}, 0 <= i < rows, 0 <= j < columns; lags beyond the last are 0.

    Args:
        h: (p, m, L) float64.
        rows, columns: of blocks.
    """

    def __init__(self, h: Tensor, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns
        self.outputs, self.inputs = h.shape[0], h.shape[1]
        span = rows + columns - 1
        lags = h[..., :span]
        self._h = torch.nn.functional.pad(lags, (0, span - lags.shape[-1]))
        self._size = fast_length(span)
        self._spectrum = torch.fft.rfft(self._h, n=self._size).permute(2, 0, 1)  # (F, p, m)

    @property
    def smaller(self) -> int:
        """How many singular values there are."""
        return min(self.rows * self.outputs, self.columns * self.inputs)

    def times(self, X: Tensor) -> Tensor:
        """H X, (columns, m, k) -> (rows, p, k)."""
        return self._product(self._spectrum, X, self.rows)

    def transposed_times(self, Y: Tensor) -> Tensor:
        """H^T Y, (rows, p, k) -> (columns, m, k)."""
        return self._product(self._spectrum.mT, Y, self.columns)

    def _product(self, spectrum: Tensor, X: Tensor, length: int) -> Tensor:
        # sum_j h_{i+j} x_j is a correlation: the spectrum of x enters conjugated, and nothing wraps round.
        k = X.shape[2]
        rows = X.reshape(X.shape[0], -1).T.contiguous()
        x = torch.fft.rfft(rows, n=self._size).conj().reshape(-1, k, self._size // 2 + 1).permute(2, 0, 1)
        y = spectrum * x if spectrum.shape[1] == spectrum.shape[2] == 1 else spectrum @ x
        y = y.permute(1, 2, 0).contiguous()
        return torch.fft.irfft(y, n=self._size)[..., :length].permute(2, 0, 1)

    def dense(self) -> Tensor:
        """The matrix itself, (rows p, columns m)."""
        blocks = self._h.unfold(2, self.columns, 1)[:, :, : self.rows]  # (p, m, rows, columns)
        return blocks.permute(2, 0, 3, 1).reshape(self.rows * self.outputs, self.columns * self.inputs)

    def energy(self) -> Tensor:
        """Squared Frobenius norm: each lag as often as it occurs."""
        span = self._h.shape[2]
        lag = torch.arange(span, dtype=torch.float64, device=self._h.device)
        count = torch.minimum(lag + 1, span - lag).clamp_max(min(self.rows, self.columns))
        return (self._h.square().sum(dim=(0, 1)) * count).sum()

    def triplets(self, count: int) -> Triplets:
        """At least min(count, all) leading singular triplets, all of them where the matrix is small.

        Large matrices: block Lanczos iteration with full orthogonalisation from seeded random vectors, on H where it is
        symmetric (one input and output, as many rows as columns), else on [[0, H], [H^T, 0]], whose eigenvalues are
        +-s. H^T H, whose square root would cost half of the digits, does not appear.

        Source: Golub & Underwood, "The block Lanczos method for computing eigenvalues", Mathematical Software III
            (1977); Golub & Van Loan, Matrix Computations, 4th ed., chapter 10.
        """
        if max(self.rows * self.outputs, self.columns * self.inputs) <= DENSE or 3 * count >= self.smaller:
            return self._all()
        symmetric = self.outputs == self.inputs == 1 and self.rows == self.columns
        n = self.rows * self.outputs
        if symmetric:
            theta, X, converged = _lanczos(self._flat_times, n, count, device=self._h.device)
            s, Z = theta.abs(), X
            U = X * torch.where(theta < 0, -1.0, 1.0).to(X.dtype)
        else:

            def augmented(X: Tensor) -> Tensor:
                return torch.cat([self._flat_times(X[n:]), self._flat_transposed(X[:n])])

            size = n + self.columns * self.inputs
            s, X, converged = _lanczos(augmented, size, count, device=self._h.device, positive=True)
            U, Z = X[:n] * np.sqrt(2.0), X[n:] * np.sqrt(2.0)
        energy = float(self.energy())
        found = int((s > np.finfo(float).eps * s[0]).sum()) if energy > 0 else 0
        U, s, Z = U[:, :found], s[:found], Z[:, :found]
        # What was not found: `left` values with this sum of squares, none of them above the last one found.
        left = self.smaller - found
        rest = max(energy - float(s.square().sum()), np.finfo(float).eps * energy)
        beyond = float(np.sqrt(left * rest))
        if converged and found:
            last = max(float(s[-1]), np.finfo(float).eps * float(s[0]))
            if rest <= left * last**2 + _COUNTED * energy:  # else a copy of an equal value was missed
                beyond = min(beyond, left * last)
        tail = torch.cat([s.flip(0).cumsum(0).flip(0), torch.zeros(1, dtype=s.dtype, device=s.device)]) + beyond
        U, Z = U.reshape(self.rows, self.outputs, found), Z.reshape(self.columns, self.inputs, found)
        return Triplets(U, s, Z, tail, False)

    def _all(self) -> Triplets:
        H = self.dense()
        if self.outputs == self.inputs == 1 and self.rows == self.columns:
            # Symmetric: a third of the time of a singular value decomposition.
            values, vectors = torch.linalg.eigh(H)
            order = values.abs().argsort(descending=True, stable=True)
            s, Z = values.abs()[order], vectors[:, order]
            U = Z * torch.where(values[order] < 0, -1.0, 1.0).to(Z.dtype)
        else:
            U, s, Vh = torch.linalg.svd(H, full_matrices=False)
            Z = Vh.T
        tail = torch.cat([s.flip(0).cumsum(0).flip(0), torch.zeros(1, dtype=s.dtype, device=s.device)])
        k = len(s)
        return Triplets(U.reshape(self.rows, self.outputs, k), s, Z.reshape(self.columns, self.inputs, k), tail, True)

    def _flat_times(self, X: Tensor) -> Tensor:
        return self.times(X.reshape(self.columns, self.inputs, -1)).reshape(self.rows * self.outputs, -1)

    def _flat_transposed(self, Y: Tensor) -> Tensor:
        return self.transposed_times(Y.reshape(self.rows, self.outputs, -1)).reshape(self.columns * self.inputs, -1)


def fast_length(least: int) -> int:
    """The length of at least `least` that real Fourier transforms are fastest at."""
    return int(fft.next_fast_len(least, real=True))  # type: ignore[arg-type]


def _lanczos(
    apply: Callable[[Tensor], Tensor], n: int, count: int, *, device: torch.device, positive: bool = False
) -> tuple[Tensor, Tensor, bool]:
    """Eigenpairs of largest modulus of a symmetric matrix, and whether all of them converged.

    Args:
        apply: (n, b) -> (n, b).
        count: pairs wanted.
        positive: of the positive eigenvalues only.

    Returns:
        theta (count,) by falling modulus, X (n, count) orthonormal.
    """
    generator = torch.Generator().manual_seed(0)
    start = torch.randn((n, _WIDTH), dtype=torch.float64, generator=generator).to(device)
    most = min(n - _WIDTH, max(_MOST * count, _LEAST))
    V = torch.empty((most + _WIDTH, n), dtype=torch.float64, device=device)  # rows, so that a block is contiguous
    T = torch.zeros((most + _WIDTH, most + _WIDTH), dtype=torch.float64)
    V[:_WIDTH] = torch.linalg.qr(start).Q.T
    size, check = 0, count + _WIDTH
    while True:
        now, size = slice(size, size + _WIDTH), size + _WIDTH
        block = apply(V[now].T).T
        beta = None
        T[now, now] = (V[now] @ block.T).cpu()
        for _ in range(2):  # once more: the first pass leaves what the cancellation hid
            block = block - (block @ V[:size].T) @ V[:size]
            Q, R = torch.linalg.qr(block.T)
            block, beta = Q.T, R if beta is None else R @ beta
        assert beta is not None
        after = slice(size, size + _WIDTH)
        last = size + _WIDTH > most
        if size >= check or last:
            theta, S = torch.linalg.eigh((T[:size, :size] + T[:size, :size].T) / 2)
            score = theta if positive else theta.abs()
            lead = score.argsort(descending=True, stable=True)[:count]
            residual = (beta.cpu() @ S[size - _WIDTH :, lead]).norm(dim=0)
            converged = bool(residual.max() <= _RESIDUAL * theta.abs().max())
            if converged or last:
                return theta[lead].to(device), V[:size].T @ S[:, lead].to(device), converged
            check = size + max(_WIDTH, size // 4)
        V[after] = block
        T[after, now] = beta.cpu()
        T[now, after] = beta.cpu().T
