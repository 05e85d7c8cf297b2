"""From stored slots to a minimal set of distinct stable poles, exactly.

Slots that reach nothing or are never seen are dropped, equal poles are merged into as many as the rank of their joint
residue, a real pole stored as half of a pair becomes one or two real states, and poles on or outside the unit circle
are set aside. The transfer function of the stable part and every non-zero Hankel singular value stay as they are
(docs/numerics.md).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from ssmtool.lti.systems import DiagonalSystem

_ULPS = 8 * np.finfo(np.float64).eps  # two poles are one if they differ by no more than the rounding of their logs


@dataclass(frozen=True)
class Minimal:
    """Stable distinct poles of S systems, padded to the largest count N with inactive slots.

    Attributes:
        a: (S, N) complex128, Im a >= 0 after folding (the conjugate is implied); -1 in padding.
        B: (S, N, m) complex128, rows scaled so that the norms of B_i and C_i agree; 0 in padding.
        C: (S, p, N) complex128 with y = Re(C x).
        real: (S, N) bool, slots that are one real state (B and C real); padding counts as real.
        active: (S, N) bool, False in padding.
        redundant: (S,) int64, states of the stored system that this one does without.
        unstable: (S,) int64, states with modulus >= 1, not part of this system.
    """

    a: NDArray[np.complexfloating]
    B: NDArray[np.complexfloating]
    C: NDArray[np.complexfloating]
    real: NDArray[np.bool_]
    active: NDArray[np.bool_]
    redundant: NDArray[np.int64]
    unstable: NDArray[np.int64]

    @property
    def order(self) -> np.ndarray:
        """(S,) int64, states of the minimal stable part (its McMillan degree)."""
        return (self.active * np.where(self.real, 1, 2)).sum(axis=1)

    def take(self, index: np.ndarray) -> Minimal:
        """The systems at `index` (integers) only."""
        return Minimal(*(getattr(self, field.name)[index] for field in fields(self)))


def fold(angle: np.ndarray) -> np.ndarray:
    """Angles moved to (-pi, pi] by whole turns; used to compare poles only."""
    return angle - 2 * np.pi * np.round(angle / (2 * np.pi))


def minimal(system: DiagonalSystem) -> Minimal:
    """The minimal stable part of `system`, its poles ready for the factorisations.

    Source: docs/numerics.md.
    """
    a: NDArray[np.complexfloating] = system.a
    B, C = system.B, system.C
    angle = fold(a.imag)
    lower = angle < 0  # Re(C x) is unchanged when a slot is replaced by its mirror image
    a = np.where(lower, a.conj(), a)
    B = np.where(lower[:, :, None], B.conj(), B)
    C = np.where(lower[:, None, :], C.conj(), C)
    slack = _ULPS * np.maximum(np.abs(a.imag), 1e-300)
    real = np.minimum(np.abs(angle), np.pi - np.abs(angle)) <= slack
    states = np.where(real & system.real, 1, 2)
    stable = a.real < 0
    seen = (np.abs(B).max(axis=2) > 0) & (np.abs(C).max(axis=1) > 0)
    unstable = ((~stable) * states).sum(axis=1)
    active = stable & seen
    if system.inputs == system.outputs == 1:
        a, B, C, real, active = _siso(a, B, C, real, active)
    else:
        a, B, C, real, active = _mimo(a, B, C, real, active)
    # Inactive slots must not disturb the factorisations: a harmless pole that reaches nothing.
    a = np.where(active, a, -1.0)
    b_norm = np.linalg.norm(B, axis=2)
    c_norm = np.linalg.norm(C, axis=1)
    scale = np.sqrt(np.divide(c_norm, b_norm, out=np.ones_like(b_norm), where=active))
    B = np.where(active, scale, 0.0)[:, :, None] * B
    C = np.where(active, 1 / scale, 0.0)[:, None, :] * C
    kept = (active * np.where(real, 1, 2)).sum(axis=1)
    order = system.order
    return Minimal(a, B, C, real | ~active, active, order - unstable - kept, unstable)


def _equal_pairs(a: NDArray[np.complexfloating], real: np.ndarray, active: np.ndarray) -> np.ndarray:
    """(K, 3) int64 rows (system, i, j), i < j, of active slots whose poles coincide to a few ulp."""
    found = []
    step = max(1, (1 << 22) // max(1, a.shape[1] ** 2))
    for start in range(0, a.shape[0], step):
        block = slice(start, start + step)
        x, angle, act = a.real[block], a.imag[block], active[block]
        near = np.abs(x[:, :, None] - x[:, None, :]) <= _ULPS * np.abs(x)[:, :, None]
        near &= act[:, :, None] & act[:, None, :]
        s, i, j = np.nonzero(near)
        s, i, j = s[i < j], i[i < j], j[i < j]
        size = np.maximum(np.abs(angle[s, i]), np.abs(angle[s, j]))
        gap = np.abs(fold(angle[s, i] - angle[s, j]))
        same = gap <= _ULPS * np.maximum(size, 1e-300)
        # A real pole at the same place is the same pole, whatever multiple of 2 pi its angle was stored with.
        found.append(np.stack([s[same] + start, i[same], j[same]], axis=1))
    return np.concatenate(found)


def _groups(rows: np.ndarray) -> dict[int, list[list[int]]]:
    """Connected groups of equal slots, per system, from rows (system, i, j)."""
    groups: dict[int, list[list[int]]] = {}
    for s, i, j in rows.tolist():
        mine = groups.setdefault(s, [])
        joined = [g for g in mine if i in g or j in g]
        merged = sorted({i, j}.union(*joined)) if joined else [i, j]
        mine[:] = [g for g in mine if g not in joined] + [merged]
    return groups


def _representative(real: np.ndarray, group: list[int]) -> int:
    """The slot whose pole stands for a group: a real one if there is one (the others are it, up to their rounding)."""
    return next((i for i in group if real[i]), group[0])


def _siso(a, B, C, real, active):
    """Single input, single output: residues of equal poles add; a real pole keeps the real part of its residue."""
    residue = C[:, 0, :] * B[:, :, 0]
    residue = np.where(real, residue.real, residue)
    size = np.abs(residue)
    active = active.copy()
    for s, groups in _groups(_equal_pairs(a, real, active)).items():
        for group in groups:
            first = _representative(real[s], group)
            total = residue[s, group].sum()
            if real[s, first]:
                total = total.real
            if abs(total) <= _ULPS * size[s, group].sum():
                total = 0.0
            active[s, group] = False
            residue[s, first], active[s, first] = total, True
    # b = c = sqrt of the residue of the conjugate-closed system, so that one factor serves both Gramians.
    active &= residue != 0
    root = np.where(real, np.sqrt(np.abs(residue)), np.sqrt(residue.astype(np.complex128)))
    sign = np.where(real & (residue.real < 0), -1.0, 1.0)
    return a, root[:, :, None], (sign * root)[:, None, :], real, active


def _mimo(a, B, C, real, active):
    """Groups of equal poles (a real pole is one by itself) are replaced by as many slots as their residue has rank."""
    special: dict[int, list[list[int]]] = _groups(_equal_pairs(a, real, active))
    grouped = {(s, i) for s, groups in special.items() for g in groups for i in g}
    both_real = (np.abs(B.imag).max(axis=2) == 0) & (np.abs(C.imag).max(axis=1) == 0)
    for s, i in np.argwhere(real & active & ~both_real).tolist():
        if (s, i) not in grouped:
            special.setdefault(s, []).append([i])
    if not special:
        return a, B, C, real, active
    slots = a.shape[1]
    extra = max(sum(max(0, 2 - len(g)) for g in groups) for groups in special.values())
    pad = ((0, 0), (0, extra))
    a, real = np.pad(a, pad), np.pad(real, pad)
    active = np.pad(active, pad)
    B, C = np.pad(B, (*pad, (0, 0))), np.pad(C, ((0, 0), (0, 0), (0, extra)))
    for s, groups in special.items():
        free = list(range(slots, slots + extra))
        for group in groups:
            first = _representative(real[s], group)
            c: NDArray[np.complexfloating] = C[s][:, group]
            b: NDArray[np.complexfloating] = B[s, group]
            pole, is_real = a[s, first], bool(real[s, first])
            if is_real:
                left, right = _rank_revealed(np.hstack([c.real, -c.imag]), np.vstack([b.real, b.imag]))
            else:
                left, right = _rank_revealed(c, b)
            places = (group + free)[: left.shape[1]]
            free = [f for f in free if f not in places]
            active[s, group] = False
            for k, place in enumerate(places):
                a[s, place], real[s, place], active[s, place] = pole, is_real, True
                B[s, place], C[s, :, place] = right[k], left[:, k]
    return a, B, C, real, active


def _rank_revealed(c: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Factors of the product c b with as few columns as its numerical rank: C = U S^1/2, B = S^1/2 Z*."""
    qc, rc = np.linalg.qr(c)
    qb, rb = np.linalg.qr(b.conj().T)
    u, s, vh = np.linalg.svd(rc @ rb.conj().T)
    scale = np.linalg.norm(c, axis=0) @ np.linalg.norm(b, axis=1)
    rank = int((s > _ULPS * scale).sum())
    root = np.sqrt(s[:rank])
    return (qc @ u[:, :rank]) * root, root[:, None] * (vh[:rank] @ qb.conj().T)
