"""Gramian factors of systems with many inputs, many poles at a time, at the speed of matrix products.

The algorithm of `potapov` with blocks of poles instead of single pairs: the poles with the largest remaining diagonal
are taken together, their own Gramian (small, in closed form) is factored by Cholesky, and the rest of B multiplied
by the inner factor that eliminates all of them at once. A pole that would make the block's Gramian ill-conditioned
waits for a later block, so that no more than four digits are lost to grading within one.

Sources: docs/numerics.md; Kailath & Sayed, SIAM Review 37 (1995), section 7 (block Schur reduction).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ssmtool.lti.potapov import complex_expm1

_BLOCK = 16  # poles taken together
_GRADING = 1e-4  # smallest pivot of a block, relative to its largest


def block_potapov_factor(a: Tensor, B: Tensor, real: Tensor) -> Tensor:
    """Factor L of the reachability Gramian P = L L^T in real coordinates (Re x_1 … Re x_N, Im x_1 … Im x_N).

    Args:
        a: (S, N) complex128, logarithms of distinct stable poles, one per pair.
        B: (S, N, m) complex128; zero rows switch a slot off. Real slots have real rows.
        real: (S, N) bool, slots that are one real state.

    Returns:
        (S, 2N, 2N) float64, columns by decreasing pivot, zero columns last.
    """
    return torch.stack([_one(a[s], B[s], real[s]) for s in range(a.shape[0])])


def _one(a: Tensor, B: Tensor, real: Tensor) -> Tensor:
    slots = a.shape[0]
    G = torch.cat([B.real, B.imag]).contiguous()  # (2N, m), what is left of B
    factor = G.new_zeros((2 * slots, 2 * slots))
    weight = -torch.expm1(2 * a.real)
    left = torch.ones(slots, dtype=torch.bool, device=a.device)
    filled = 0
    while True:
        square = G.square().sum(1)
        diagonal = torch.where(left, (square[:slots] + square[slots:]) / weight, torch.zeros_like(weight))
        candidates = diagonal.topk(min(_BLOCK, slots)).indices
        candidates = candidates[diagonal[candidates] > 0]
        if not len(candidates):
            return factor
        panel = _gramian(a, G, candidates)  # (2N, 2c), all rows against the candidates
        chosen = _select(panel, candidates, real)
        slot, row, column = _coordinates(candidates, chosen, real)
        K, failed = torch.linalg.cholesky_ex(panel[row][:, column])
        if failed:
            # A pair that is real but for rounding: alone, and its second direction no smaller than rounding.
            slot, row, column = _coordinates(candidates, chosen[:1], real)
            alone = panel[row][:, column]
            floor = 1e-15 * alone.trace() * torch.eye(len(row), dtype=alone.dtype, device=alone.device)
            K = torch.linalg.cholesky(alone + floor)
        panel = panel[:, column]
        L = torch.linalg.solve_triangular(K, panel.mT, upper=False).mT
        L[row] = K
        L[:slots][~left] = 0
        L[slots:][~left] = 0
        factor[:, filled : filled + len(row)] = L
        filled += len(row)
        _eliminate(a, G, L, K, row)
        left[slot] = False
        G[:slots][~left] = 0
        G[slots:][~left] = 0


def _coordinates(candidates: Tensor, chosen: Tensor, real: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Slots chosen, their rows among all real coordinates, and their columns in the panel."""
    slot = candidates[chosen]
    pair = ~real[slot]
    row = torch.cat([slot, slot[pair] + len(real)])
    return slot, row, torch.cat([chosen, chosen[pair] + len(candidates)])


def _gramian(a: Tensor, G: Tensor, columns: Tensor) -> Tensor:
    """Columns (2N, 2c) of the real-coordinate Gramian of what is left: all rows against the given slots."""
    slots = a.shape[0]
    g = torch.complex(G[:slots], G[slots:])
    h = g[columns]
    log = a[columns]
    P1 = (g @ h.mH) / -complex_expm1(a[:, None] + log.conj())
    P2 = (g @ h.mT) / -complex_expm1(a[:, None] + log)
    total, gap = (P1 + P2) / 2, (P1 - P2) / 2
    return torch.cat([torch.cat([total.real, -gap.imag], 1), torch.cat([total.imag, gap.real], 1)])


def _select(panel: Tensor, candidates: Tensor, real: Tensor) -> Tensor:
    """Positions of the candidates that can be eliminated together, in pivot order; the first is always taken."""
    count, slots = len(candidates), panel.shape[0] // 2
    S = panel[torch.cat([candidates, candidates + slots])].cpu().numpy().copy()
    single = real[candidates].cpu().numpy()
    waiting = list(range(count))
    chosen: list[int] = []
    top = 0.0
    while waiting:
        diagonal = S.diagonal()
        best = max(waiting, key=lambda i: diagonal[i] + diagonal[count + i])
        waiting.remove(best)
        index = [best] if single[best] else [best, best + count]
        block = S[np.ix_(index, index)]
        smallest = np.linalg.eigvalsh(block)[0]
        top = top or float(np.trace(block))
        if chosen and smallest < _GRADING * top:
            continue
        chosen.append(best)
        root = np.linalg.cholesky(block + np.eye(len(index)) * max(0.0, 1e-15 * float(np.trace(block)) - smallest))
        step = np.linalg.solve(root, S[index])
        S = S - step.T @ step
    return torch.tensor(chosen, dtype=torch.int64, device=candidates.device)


def _eliminate(a: Tensor, G: Tensor, L: Tensor, K: Tensor, row: Tensor) -> None:
    """Multiplies what is left of B by the inner factor with the eliminated poles, in place."""
    slots = a.shape[0]
    lam = torch.exp(a)
    E, R = torch.linalg.qr(G[row].mT)  # (m, q), (q, k)
    turned = rotate(lam, L)
    # The eliminated part in coordinates where its Gramian is the identity: (A_K, C_K) has orthonormal rows, and is
    # completed to an orthogonal matrix whose other columns give the inner factor.
    A_K = torch.linalg.solve_triangular(K, turned[row], upper=False)
    C_K = torch.linalg.solve_triangular(K, R.mT, upper=False)
    k, q = A_K.shape[0], C_K.shape[1]
    complete = torch.linalg.qr(torch.cat([A_K, C_K], 1).mT, mode="complete").Q[:, k : k + q]
    update = (G @ E) @ (complete[k:] - torch.eye(q, dtype=G.dtype, device=G.device)) + turned @ complete[:k]
    G += update @ E.mT
    G[row] = 0
    G[slots + row[row < slots]] = 0


def rotate(lam: Tensor, X: Tensor) -> Tensor:
    """A X, (…, 2N, k), in real coordinates for eigenvalues lam (…, N)."""
    n = lam.shape[-1]
    re, im = lam.real[..., None], lam.imag[..., None]
    top, bottom = X[..., :n, :], X[..., n:, :]
    return torch.cat([re * top - im * bottom, im * top + re * bottom], dim=-2)
