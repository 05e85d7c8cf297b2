"""Impulse responses in arrays: which axis counts systems, outputs, inputs and lags."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ssmtool.errors import UsageError
from ssmtool.pipeline.numbers import NumberFile

AXES = {1: "L", 2: "SL", 3: "pmL", 4: "SpmL"}
"""How arrays are read unless --axes says otherwise: systems S, outputs p, inputs m, lags L."""

_LETTERS = "SpmL"
_MANY = 8  # inputs of a three-axis array with one output from which it is said that it may be channels instead


@dataclass(frozen=True)
class Lags:
    """Impulse responses of S systems.

    Attributes:
        name: of the layer they become.
        h: (S, p, m, L) float64.
        axes: how the array was read, e.g. "SL".
        dtype: what the layer is stored in, "F32" or "F64".
        single: whether the array was in single precision or less.
        remarks: what may have been meant otherwise.
    """

    name: str
    h: np.ndarray
    axes: str
    dtype: str
    single: bool
    remarks: tuple[str, ...] = ()

    @property
    def batch(self) -> bool:
        """Whether the layer is a batch of systems, or one system without that axis."""
        return "S" in self.axes


def lags_of(file: NumberFile, axes: str | None, dtype: str | None = None) -> tuple[Lags, ...]:
    """Every array of a file as impulse responses.

    Args:
        axes: a permutation of some of the letters S, p, m, L, one per axis, with L among them; by default `AXES`.
        dtype: storage type instead of the array's own precision.

    Raises:
        UsageError: axes that are none, or do not fit an array.
    """
    if axes is not None and (len(set(axes)) < len(axes) or not set(axes) <= set(_LETTERS) or "L" not in axes):
        raise UsageError(
            f"--axes {axes} is not a list of axes",
            remedy="Give one letter per axis, each once: S systems, p outputs, m inputs, L lags, e.g. --axes LS",
        )
    return tuple(_lags(file, name, axes, dtype) for name in file.arrays)


def _lags(file: NumberFile, name: str, axes: str | None, dtype: str | None) -> Lags:
    array, where = file.arrays[name], f"{file.path}" + (f", {name}" if name else "")
    read = axes or AXES.get(array.ndim, "")
    if len(read) != array.ndim:
        asked = f"--axes {axes} names {len(axes)} axes" if axes else "1 to 4 axes are read"
        raise UsageError(
            f"has shape {array.shape}, and {asked}",
            where=where,
            remedy="Give --axes with one letter per axis: S systems, p outputs, m inputs, L lags",
        )
    present = [letter for letter in _LETTERS if letter in read]
    h = array.transpose([read.index(letter) for letter in present])
    sizes = [array.shape[read.index(letter)] if letter in read else 1 for letter in _LETTERS]
    h = np.ascontiguousarray(h.reshape(sizes))
    S, p, m, L = sizes
    remarks = []
    if axes is None and array.ndim == 3 and p == 1 and m >= _MANY:
        remarks.append(f"read as one system with {m} inputs; for {m} independent kernels give --axes pSL")
    if axes is None and S > L:
        remarks.append(f"read as {S} kernels of {L} lags; if lags come first, give --axes LS")
    single = name in file.single
    return Lags(name or "kernel", h, read, dtype or ("F32" if single else "F64"), single, tuple(remarks))
