"""The poles that make a reduced system with one input, or one output, H2-optimal, found by Newton's method.

For fixed poles mu_i the best residues are a projection, and what they leave of G = sum_j rho_j / (1 - lambda_j w), with
w = 1/z, has a closed form. With the Blaschke product of the poles, beta(x) = prod_i (x - mu_i)/(1 - x mu_i),

    error^2 = | sum_j rho_j beta(lambda_j) / (1 - lambda_j w) |_2^2 = | (rho . beta(lambda)) L |^2,      P = L L^T,

P the Gramian of the original poles with input 1: nothing is subtracted, so small errors keep their digits. Poles go in
sections, x^2 - p x + q over 1 - p x + q x^2, whose two poles may be a pair or two real ones and turn from one into the
other smoothly; derivatives by p and q are closed forms, too. A stationary point fulfils the interpolation conditions of
Meier and Luenberger, which are the fixed points of IRKA.

Source: Meier & Luenberger, IEEE Trans. Automatic Control 12 (1967); Walsh, Interpolation and Approximation (1935), for
the closed form; Golub & Pereyra, SIAM J. Numer. Anal. 10 (1973), for eliminating what enters linearly.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ssmtool.lti.kautz import kautz_factor
from ssmtool.lti.minimal import Minimal

_STEPS = 150
_STUCK = 1e8  # damping at which no step makes the error smaller any more: rounding
_STATIONARY = 1e-10  # gradient, relative to error and scale of each parameter, at which a system is done
_APART = 1e-3  # least distance of poles, relative to that from the circle: closer ones have residues float32 loses


@dataclass(frozen=True)
class Sections:
    """Poles of S systems in K sections each.

    Attributes:
        p, q: (S, K) float64; a section of degree 1 has its pole in p and q = 0.
        degree: (S, K) int64, 2, 1, or 0 for padding.
    """

    p: np.ndarray
    q: np.ndarray
    degree: np.ndarray

    def inside(self) -> np.ndarray:
        """(S, K) float64: how far each section is from losing stability, positive while it is stable."""
        two = np.minimum(1 - self.q, 1 + self.q - np.abs(self.p))
        return np.where(self.degree == 2, two, np.where(self.degree == 1, 1 - np.abs(self.p), 1.0))

    def poles(self) -> list[NDArray[np.complexfloating]]:
        """Poles of every system, the real ones and the upper one of every pair."""
        found = []
        for p, q, degree in zip(self.p, self.q, self.degree, strict=True):
            mu: list[complex] = []
            for pk, qk, dk in zip(p, q, degree, strict=True):
                split = pk * pk / 4 - qk
                if dk == 1:
                    mu.append(pk)
                elif dk == 2 and split < 0:
                    mu.append(complex(pk / 2, np.sqrt(-split)))
                elif dk == 2:
                    larger = pk / 2 + np.copysign(np.sqrt(split), pk)
                    mu += [larger, qk / larger if larger else 0.0]
            found.append(_apart(np.array(mu, dtype=np.complex128)))
        return found


def sections(poles: list[NDArray[np.complexfloating]]) -> Sections:
    """Sections with the given poles, per system the real ones and the upper one of every pair."""
    rows = []
    for mu in poles:
        real = np.sort(mu[mu.imag == 0].real)
        row = [(2 * x.real, abs(x) ** 2, 2) for x in mu[mu.imag != 0]]
        if len(real) % 2:
            row.append((real[-1], 0.0, 1))
        row += [(x + y, x * y, 2) for x, y in zip(real[0 : len(real) - 1 : 2], real[1::2], strict=False)]
        rows.append(row)
    width = max([len(row) for row in rows] + [1])
    table = np.array([row + [(0.0, 0.0, 0)] * (width - len(row)) for row in rows], dtype=np.float64)
    return Sections(table[:, :, 0], table[:, :, 1], table[:, :, 2].astype(np.int64))


class Projection:
    """H2 distance of S systems from everything with given poles, as a function of these poles."""

    def __init__(self, modes: Minimal, weight: NDArray[np.complexfloating]) -> None:
        """weight: (S, c, N), residues of c inputs or outputs."""
        lam: NDArray[np.complexfloating] = np.exp(modes.a)
        self.lam = np.where(modes.real, lam.real, lam)
        self.real, self.weight = modes.real, weight
        L = kautz_factor(
            torch.from_numpy(modes.a), torch.from_numpy(modes.active.astype(complex)), torch.from_numpy(modes.real)
        ).numpy()
        self.L = L if L.shape[1] == 2 * L.shape[2] or not modes.real.all() else np.concatenate([L, 0 * L], axis=1)

    def take(self, index: np.ndarray) -> Projection:
        """The systems at `index` only."""
        part = copy(self)
        part.lam, part.real = self.lam[index], self.real[index]
        part.weight, part.L = self.weight[index], self.L[index]
        return part

    def error(self, at: Sections) -> np.ndarray:
        """(S,) squared H2 distance."""
        return np.square(self._coordinates(_sections(self.lam, at)[0].prod(axis=1))).sum(axis=(1, 2))

    def derivatives(self, at: Sections) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Squared distance (S,), and gradient (S, 2K) and Hessian (S, 2K, 2K) of its half by (p_1, q_1, p_2, ...)."""
        beta, first, second = _sections(self.lam, at)
        systems, count, slots = beta.shape
        rest = _products_without(beta)  # (S, K, K, N)
        f = self._coordinates(beta.prod(axis=1))
        own = np.arange(count)
        D = (rest[:, own, own, None] * first).reshape(systems, 2 * count, slots)
        J = np.stack([self._coordinates(D[:, i]) for i in range(2 * count)], axis=1)  # (S, 2K, c, columns)
        J = J.reshape(systems, 2 * count, -1)
        # f . f'' = Re sum_j y_j beta''(lambda_j)
        t = np.einsum("snk,sck->scn", self.L, f)
        t = t[:, :, :slots] + 1j * t[:, :, slots:]
        y = (self.weight * t).sum(axis=1)
        mixed = rest[:, :, :, None, None] * first[:, :, None, :, None] * first[:, None, :, None, :]
        mixed[:, own, own] = rest[:, own, own, None, None] * second
        curve = np.einsum("sn,skluvn->skulv", y, mixed).real.reshape(systems, 2 * count, 2 * count)
        gradient = (J @ f.reshape(systems, -1, 1))[:, :, 0]
        return np.square(f).sum(axis=(1, 2)), gradient, J @ J.transpose(0, 2, 1) + curve

    def _coordinates(self, value: NDArray[np.complexfloating]) -> np.ndarray:
        """(S, c, columns): coordinates of sum_j rho_j value_j / (1 - lambda_j w), value (S, N)."""
        x = self.weight * value[:, None, :]
        return np.concatenate([x.real, -x.imag], axis=2) @ self.L

    def residues(self, poles: list[NDArray[np.complexfloating]]) -> list[NDArray[np.complexfloating]]:
        """(c, k) weights c_i of the projection Re sum_i c_i / (1 - mu_i w) of every system onto its poles."""
        found = []
        for s, upper in enumerate(poles):
            pair, both = upper.imag != 0, ~self.real[s]
            mu = np.concatenate([upper, upper[pair].conj()])
            lam = np.concatenate([self.lam[s], self.lam[s][both].conj()])
            rho = np.where(both, 0.5, 1.0) * self.weight[s]
            rho = np.concatenate([rho, rho[:, both].conj()], axis=1)
            k = len(upper)
            gap = mu[:k, None] - mu
            gap[np.arange(k), np.arange(k)] = 1.0
            own = 1 - mu[:k, None] * mu
            scale = (own / gap).prod(axis=1)
            factor = (lam[:, None] - mu) / (1 - lam[:, None] * mu)  # (n, r)
            out = np.empty((len(rho), k), dtype=np.complex128)
            for i in range(k):
                others = np.delete(factor, i, axis=1).prod(axis=1) / (1 - lam * mu[i])
                out[:, i] = scale[i] * (rho @ others)
            found.append(np.where(pair, 2 * out, out.real))
        return found


def search(projection: Projection, start: Sections) -> Sections:
    """The nearest local minimum of the H2 error that a damped Newton iteration from `start` reaches.

    Eigenvalues of the scaled Hessian enter by their modulus, so that saddle points repel; a step is taken if it makes
    the error smaller, and brings no section more than half of the way to the edge of stability.
    """
    p, q, degree = start.p.copy(), start.q.copy(), start.degree
    left = np.arange(len(p))  # systems that still move
    damping = np.full(len(p), 1e-3)
    for _ in range(_STEPS):
        part, at = projection.take(left), Sections(p[left], q[left], degree[left])
        error, gradient, hessian = part.derivatives(at)
        free = np.stack([at.degree > 0, at.degree == 2], axis=2).reshape(len(left), -1)
        scale = np.sqrt(np.maximum(np.abs(np.einsum("sii->si", hessian)), 1e-300))
        scaled = np.where(free, gradient / scale, 0.0)
        moving = (np.square(scaled).sum(axis=1) > _STATIONARY**2 * error) & (damping[left] < _STUCK)
        if not moving.any():
            break
        H = hessian / (scale[:, :, None] * scale[:, None, :])
        H = np.where(free[:, :, None] & free[:, None, :], H, np.eye(H.shape[1]))
        values, vectors = np.linalg.eigh(H)
        along = np.einsum("sji,sj->si", vectors, scaled) / (np.abs(values) + damping[left, None])
        step = (-np.einsum("sij,sj->si", vectors, along) / scale).reshape(len(left), -1, 2)
        trial = _within(at, np.where(free.reshape(step.shape), step, 0.0))
        better = part.error(trial) < error
        damping[left] = np.maximum(np.where(better, damping[left] / 5, damping[left] * 5), 1e-12)
        p[left], q[left] = np.where(better[:, None], trial.p, at.p), np.where(better[:, None], trial.q, at.q)
        left = left[moving]
    return Sections(p, q, degree)


def _within(at: Sections, step: np.ndarray) -> Sections:
    """`at` plus the step, halved section by section until it leaves at least half of the distance to instability."""
    room, share = at.inside(), np.ones(at.p.shape)
    for _ in range(40):
        trial = Sections(at.p + share * step[:, :, 0], at.q + share * step[:, :, 1], at.degree)
        beyond = trial.inside() < room / 2
        if not beyond.any():
            break
        share = np.where(beyond, share / 2, share)
    return Sections(np.where(beyond, at.p, trial.p), np.where(beyond, at.q, trial.q), at.degree)


def _sections(lam: NDArray[np.complexfloating], at: Sections):
    """beta (S, K, N) of every section at every pole; its derivatives (S, K, 2, N) and (S, K, 2, 2, N) by p and q."""
    x = lam[:, None, :]
    p, q = at.p[:, :, None], at.q[:, :, None]
    w = 1 - x * x
    one, two = (at.degree == 1)[:, :, None], (at.degree == 2)[:, :, None]
    den = 1 - p * x + q * x * x
    flat = 1 + x * x - p * x
    zero = np.zeros_like(den)
    # a section of degree 1 is (x - p)/(1 - p x): the same denominator with q = 0
    beta = np.where(two, (x * x - p * x + q) / den, np.where(one, (x - p) / den, 1.0))
    by_p = np.where(two, -x * w * (1 - q) / den**2, np.where(one, -w / den**2, zero))
    by_q = np.where(two, w * flat / den**2, zero)
    by_pp = np.where(two, -2 * x * x * w * (1 - q) / den**3, np.where(one, -2 * x * w / den**3, zero))
    by_pq = np.where(two, x * w * (den + 2 * x * x * (1 - q)) / den**3, zero)
    by_qq = np.where(two, -2 * x * x * w * flat / den**3, zero)
    first = np.stack([by_p, by_q], axis=2)
    second = np.stack([np.stack([by_pp, by_pq], axis=2), np.stack([by_pq, by_qq], axis=2)], axis=2)
    return beta, first, second


def _products_without(beta: NDArray[np.complexfloating]) -> NDArray[np.complexfloating]:
    """(S, K, K, N): products over all sections but k and l; by products alone, for factors that are 0."""
    systems, count, slots = beta.shape
    out = np.empty((systems, count, count, slots), dtype=beta.dtype)
    for k in range(count):
        before = np.ones((systems, slots), dtype=beta.dtype)
        after = np.ones((systems, slots), dtype=beta.dtype)
        left, right = out[:, k], np.empty((systems, count, slots), dtype=beta.dtype)
        for i in range(count):
            left[:, i], right[:, count - 1 - i] = before, after
            if i != k:
                before = before * beta[:, i]
            if count - 1 - i != k:
                after = after * beta[:, count - 1 - i]
        left *= right
    return out


def _apart(mu: NDArray[np.complexfloating]) -> NDArray[np.complexfloating]:
    """Poles that coincide moved apart along the real axis, the error of the projection hardly noticing."""
    mu = mu.copy()
    for i in range(1, len(mu)):
        while np.abs(mu[i] - mu[:i]).min() < _APART * (1 - abs(mu[i])):
            mu[i] -= np.copysign(_APART, mu[i].real) * (1 - abs(mu[i]))
    return mu
