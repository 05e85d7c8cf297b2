"""The one-dimensional token dynamics of a selective layer in continuous depth, integrated numerically.

With one channel and one state, mu = S_C S_B and Delta(u) = softplus(S_Delta u + bias), tokens x_1 ... x_L move by

    dx_l/dt = mu x_l sum_{j<=l} x_j^2 Delta(x_j) exp(-a sum_{k=j+1..l} Delta(x_k)).

mu < 0: all tokens tend to 0 as 1/sqrt(t). mu > 0: if S_Delta x_l(0) < 0 for all l, tokens diverge as slowly as ln t;
otherwise some token blows up in finite time.

Source: Vo et al., "Demystifying the token dynamics of deep selective state space models", ICLR 2025, section 4; the
constants are worked out in docs/diagnose.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.integrate import LSODA

BLOW_UP = 1e8  # a token larger than this is on its way to infinity


@dataclass(frozen=True)
class Flow:
    """Tokens over depth.

    Attributes:
        t: (K,) depths that were reached.
        x: (L, K) tokens.
        blow_up: depth at which some token passed BLOW_UP; None if none did.
    """

    t: np.ndarray
    x: np.ndarray
    blow_up: float | None


def token_flow(
    x: np.ndarray, t: np.ndarray, *, mu: float, step_slope: float = 0.0, step_bias: float = 0.0, a: float = 1.0
) -> Flow:
    """Integrate the one-dimensional system.

    Args:
        x: (L,) tokens at depth 0.
        t: increasing depths from 0 at which tokens are wanted.
        mu: S_C S_B.
        step_slope: S_Delta.
        step_bias: of the step; softplus(step_bias) is the step at 0.
        a: exp(A_log).
    """

    def slope(_: float, x: np.ndarray) -> np.ndarray:
        step = np.logaddexp(0.0, step_slope * x + step_bias)
        passed = np.cumsum(step)
        weight = np.tril(np.exp(-a * np.maximum(passed[:, None] - passed, 0.0)))
        return mu * x * (weight @ (x * x * step))

    solver = LSODA(slope, 0.0, np.asarray(x, float), float(t[-1]), rtol=1e-9, atol=1e-14)
    wanted, found = np.asarray(t, float), [np.asarray(x, float)] if t[0] == 0 else []
    while solver.status == "running":
        solver.step()
        if solver.status == "failed" or not np.abs(solver.y).max() < BLOW_UP:
            return Flow(wanted[: len(found)], np.array(found).reshape(-1, len(x)).T, float(solver.t))
        inside = wanted[len(found) :]
        inside = inside[inside <= solver.t]
        if len(inside):
            found.extend(solver.dense_output()(inside).T)
    return Flow(wanted, np.array(found).T, None)


def convergence_constants(mu: float, step: float, a: float) -> tuple[float, float]:
    """Limits of |x_1| sqrt(t) and of |x_l| sqrt(t), l >= 2, for mu < 0 and step softplus(bias).

    As tokens tend to 0 the steps tend to s. With v_l = x_l^2: v_1' = 2 mu s v_1^2, hence v_1 t -> 1 / (2 |mu| s). For
    l >= 2 the weighted sum of squares must tend to the same 1 / (2 |mu| s t); its weights on v_j are e^(-a s (l - j)),
    so v_l = (1 - e^(-a s)) / (2 |mu| s t).
    """
    first = 1 / (2 * abs(mu) * step)
    return float(np.sqrt(first)), float(np.sqrt(-np.expm1(-a * step) * first))
