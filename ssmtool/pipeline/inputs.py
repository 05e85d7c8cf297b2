"""Calibration inputs of models that are no language models: arrays of sequences, without labels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssmtool.checkpoint.arrays import read_array
from ssmtool.errors import CalibrationError

_SAVE = "Save one with numpy.save(FILE, array)"


@dataclass(frozen=True)
class Inputs:
    """Sequences, and where they are from.

    Attributes:
        array: (K, L, channels) float32, or (K, L) int64 for models that read tokens.
        description: for the report, such as "1257 x 64 x 1 of calibration.npy".
        sha256: of shape and values.
    """

    array: np.ndarray
    description: str
    sha256: str


def read_inputs(file: str | Path) -> Inputs:
    """The array of an .npy file.

    Raises:
        CheckpointError: no such file, or not an array that can be read without executing anything.
        CalibrationError: fewer than two sequences, numbers that are not finite, or no variance.
    """
    path = Path(file)
    array = read_array(path, what="an array of numbers", remedy=_SAVE)
    if array.dtype.kind not in "fiu":
        raise CalibrationError(
            f"it holds {array.dtype}, not numbers",
            where=str(path),
            remedy="Save one array of floats or integers as .npy",
        )
    checked(array, str(path))
    array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
    digest = hashlib.sha256(f"{array.shape} {array.dtype} ".encode() + np.ascontiguousarray(array).tobytes())
    shape = " x ".join(map(str, array.shape))
    return Inputs(array, f"{shape} of {path.name}", digest.hexdigest())


def read_labels(file: str | Path) -> np.ndarray:
    """Class numbers of an .npy file, int64.

    Raises:
        CheckpointError: no such file, or not an array that can be read without executing anything.
        CalibrationError: not whole numbers.
    """
    path = Path(file)
    array = read_array(path, what="an array of numbers", remedy=_SAVE)
    if array.dtype.kind not in "iu":
        raise CalibrationError(
            f"it holds {array.dtype}, not class numbers", where=str(path), remedy="Save an array of integers as .npy"
        )
    return array.astype(np.int64)


def checked(array: np.ndarray, where: str = "") -> None:
    """Raises CalibrationError for inputs that nothing can be learnt from."""
    if array.ndim < 2 or len(array) < 2:
        raise CalibrationError(
            f"calibration inputs of shape {array.shape} are not several sequences",
            where=where,
            remedy="Bring an array (sequences, length, channels), or (sequences, length) of integers for tokens",
        )
    if array.shape[1] < 2:
        raise CalibrationError(
            f"calibration inputs of shape {array.shape} are no sequences: they have {array.shape[1]} steps", where=where
        )
    if not np.isfinite(array).all():
        raise CalibrationError("the calibration inputs are not finite", where=where)
    if (array == array[:1, :1]).all():
        raise CalibrationError(
            "the calibration inputs have zero variance: every step of every sequence is the same",
            where=where,
            remedy="Bring inputs like those the model is used on",
        )
