"""What the way from stored tensors to systems needs of arrays, for NumPy and for PyTorch tensors with gradients alike.

Checkpoints are read with NumPy; a regulariser takes the same way with the live parameters of a model. Nothing here
writes into an array, and no branch that `where` discards has an infinite derivative: its product with zero would be a
NaN in the gradient. PyTorch is not imported: the arrays bring their namespace (array-api-compat).
"""

from __future__ import annotations

from typing import Any

from array_api_compat import array_namespace, device

__all__ = ["array_namespace", "as_complex", "at_least", "at_most", "diagonal", "is_complex", "zeros"]


def is_complex(x: Any) -> bool:
    """Whether x holds complex numbers."""
    return array_namespace(x).isdtype(x.dtype, "complex floating")


def as_complex(x: Any) -> Any:
    """x as complex128."""
    xp = array_namespace(x)
    return xp.astype(x, xp.complex128, copy=False)


def at_least(x: Any, low: float) -> Any:
    """max(x, low); NaN stays NaN. The derivative is 0 where x is below."""
    return array_namespace(x).where(x < low, low, x)


def at_most(x: Any, high: float) -> Any:
    """min(x, high); NaN stays NaN. The derivative is 0 where x is above."""
    return array_namespace(x).where(x > high, high, x)


def zeros(shape: tuple[int, ...], like: Any) -> Any:
    """Float64 zeros in the namespace and on the device of `like`."""
    xp = array_namespace(like)
    return xp.zeros(shape, dtype=xp.float64, device=device(like))


def diagonal(d: Any) -> Any:
    """(…, n) -> (…, n, n) with d on the diagonal."""
    xp = array_namespace(d)
    index = xp.arange(d.shape[-1], device=device(d))
    return xp.where(index[:, None] == index, d[..., None], 0.0)
