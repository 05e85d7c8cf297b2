"""Descent on poles and residues together: what tangential IRKA leaves undone where it circles around a minimum.

Up to the energy of G the squared H2 error is F = sum_i c_i^T (G_r(mu_i) - 2 G(mu_i)) b_i, with w = 1/z and poles in
conjugate pairs, and with E = G_r - G

    dF/dc_i = 2 E(mu_i) b_i,     dF/db_i = 2 E(mu_i)^T c_i,     dF/dmu_i = 2 c_i^T E'(mu_i) b_i:

the gradient is what the first-order conditions say is zero. L-BFGS on logarithms of the damping, angles in units of the
damping, and rows in units of their size.

Source: Van Dooren, Gallivan & Absil, Appl. Math. Lett. 21 (2008), for the gradient; Nocedal, Math. Comp. 35 (1980).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from ssmtool.lti.irka import Tangential, krylov, real_parts, turned

_STEPS = 500
_PAIRS = 30  # steps that L-BFGS remembers


def descend(
    a: NDArray[np.complexfloating], B: NDArray[np.complexfloating], C: NDArray[np.complexfloating], start: Tangential
) -> Tangential:
    """The local minimum of the H2 error below `start`: real poles stay real, pairs stay pairs, all of them stable.

    Args:
        a: (N,), B: (N, m), C: (p, N) complex128, one slot per pair or real pole, y = Re(C x), as in `lti.minimal`.
        start: poles inside the unit circle.
    """
    error = _Error(a, B, C, start)
    x = np.zeros(error.size)
    scale = abs(error(x)[0])
    if not scale > 0:
        return start

    def relative(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = error(x)
        return value / scale, gradient / scale

    options = {"maxiter": _STEPS, "maxfun": 2 * _STEPS, "ftol": 0.0, "gtol": 1e-12, "maxcor": _PAIRS}
    found = optimize.minimize(relative, x, jac=True, method="L-BFGS-B", options=options).x
    return error.system(found)


class _Error:
    """F and its gradient by real parameters: damping, angle, then real and imaginary parts of b and c of every slot."""

    def __init__(
        self,
        a: NDArray[np.complexfloating],
        B: NDArray[np.complexfloating],
        C: NDArray[np.complexfloating],
        start: Tangential,
    ) -> None:
        self.lam: NDArray[np.complexfloating] = np.exp(a)
        self.B, self.C = B, C
        self.real_B, self.real_C, self.mirror = real_parts(B, C)
        self.log = np.log(np.maximum(np.abs(start.mu), 1e-12))
        self.angle, self.pair = np.angle(start.mu), start.mu.imag != 0
        # b and c share their size, which is the unit of their changes
        b, c = (np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300) for x in (start.b, start.c))
        self.unit = np.sqrt(b * c)
        self.b, self.c = start.b * self.unit / b, start.c * self.unit / c
        self.size = 2 * len(start.mu) * (1 + start.b.shape[1] + start.c.shape[1])

    def system(self, x: np.ndarray) -> Tangential:
        """The reduced system that the parameters stand for; zeros are the start."""
        k, m = self.b.shape
        rows = x[2 * k :].reshape(2, k, -1)
        change = (rows[0] + 1j * rows[1] * self.pair[:, None]) * self.unit
        log = self.log * np.exp(np.clip(x[:k], -30.0, 30.0))
        mu = np.exp(log + 1j * (self.angle - self.log * x[k : 2 * k] * self.pair))
        return Tangential(np.where(self.pair, mu, mu.real), self.b + change[:, :m], self.c + change[:, m:])

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        at = self.system(x)
        k = len(at.mu)
        mu, b, c = at.closed()
        reach = krylov(self.lam, self.B, mu, b)
        show = self.mirror * krylov(self.lam, self.C.T, mu, c)
        kernel = 1 / (1 - mu[:, None] * mu)
        both_b, both_c = b @ b.T, c @ c.T
        value_b, value_c = (self.real_C @ reach).T, (self.real_B.T @ show).T  # G(mu_i) b_i and G(mu_i)^T c_i
        slope = (show * turned(self.lam, reach)).sum(axis=0)  # c_i^T G'(mu_i) b_i
        F = float((both_c * both_b * kernel).sum().real - 2 * (c * value_b).sum().real)
        by_c = 2 * ((both_b * kernel) @ c - value_b)[:k]
        by_b = 2 * ((both_c * kernel) @ b - value_c)[:k]
        by_mu = 2 * ((both_c * both_b * kernel**2) @ mu - slope)[:k]
        # A pair's mirror image moves along; c of a slot is twice that of each member.
        members = np.where(self.pair, 2.0, 1.0)
        by_log = members * by_mu * at.mu
        rows = np.concatenate([members[:, None] * by_b, by_c], axis=1) * self.unit
        damping = by_log.real * self.log * np.exp(np.clip(x[:k], -30.0, 30.0))
        angle = by_log.imag * self.log * self.pair
        gradient = [damping, angle, rows.real.ravel(), (-rows.imag * self.pair[:, None]).ravel()]
        return F, np.concatenate(gradient)
