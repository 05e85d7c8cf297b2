"""The S4 code's transforms of positive parameters (real_type, real_transform, imag_transform, dt_transform), both ways.

Source: state-spaces/s4, `param_transform` / `inv_transform` (V4) and `_w` / `_A` (V3).
"""

from __future__ import annotations

import numpy as np

from ssmtool.errors import FamilyError
from ssmtool.families._arrays import array_namespace, at_least

KINDS = ("none", "exp", "relu", "sigmoid", "softplus")


def apply(kind: str, p: np.ndarray, floor: float = 1e-4) -> np.ndarray:
    """The value a stored parameter stands for.

    Args:
        kind: one of KINDS.
        p: stored parameter, float64, any shape.
        floor: what "relu" adds to max(p, 0): 1e-4 everywhere except V3 NPLR, which adds nothing.

    Raises:
        FamilyError: unknown `kind`.
    """
    xp = array_namespace(p)
    if kind == "none":
        return p
    if kind == "exp":
        return xp.exp(p)
    if kind == "relu":
        return at_least(p, 0) + floor
    if kind == "sigmoid":
        return 1 / (1 + xp.exp(-p))
    if kind == "softplus":
        return xp.logaddexp(xp.zeros_like(p), p)
    raise FamilyError(f"unknown parameter transform {kind!r}", remedy=f"Known ones: {', '.join(KINDS)}.")


def invert(kind: str, x: np.ndarray, what: str, floor: float = 1e-4) -> np.ndarray:
    """The parameter to store for the values `x`; inverse of `apply`.

    Raises:
        FamilyError: a value outside the transform's range (`what` names the quantity), or an unknown `kind`.
    """
    lowest = {"none": -np.inf, "exp": 0.0, "relu": floor, "sigmoid": 0.0, "softplus": 0.0}.get(kind, -np.inf)
    highest = 1.0 if kind == "sigmoid" else np.inf
    inside = (x >= lowest) if kind == "relu" else (x > lowest)
    if not np.all(inside & (x < highest)):
        raise FamilyError(
            f"{what} ranges from {x.min():.3g} to {x.max():.3g}, but its transform {kind!r} stores only values "
            f"between {lowest:g} and {highest:g}"
        )
    if kind == "exp":
        return np.log(x)
    if kind == "relu":
        return x - floor
    if kind == "sigmoid":
        return np.log(x) - np.log1p(-x)
    if kind == "softplus":
        return x + np.log(-np.expm1(-x))
    return apply(kind, x)
