"""Arrays of numbers from files: .npy, .npz, text, or tensors of a checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import numpy as np

from ssmtool.checkpoint import open_checkpoint
from ssmtool.checkpoint.arrays import archive_names, read_array, read_member
from ssmtool.checkpoint.documents import clip
from ssmtool.checkpoint.files import blocks, read_small, regular_size
from ssmtool.errors import CheckpointError, UsageError

TEXT = (".csv", ".txt", ".tsv")
TEXT_LIMIT = 1 << 30  # bytes of a text, which is read whole


@dataclass(frozen=True)
class NumberFile:
    """What a file holds.

    Attributes:
        path: of the file.
        kind: npy, npz, text, or a checkpoint's kind.
        sha256: of the file, as `Checkpoint.sha256`.
        arrays: name -> float64 array, finite; a file that holds one array without a name calls it "".
        single: names of those that were stored in single precision or less.
    """

    path: Path
    kind: Literal["npy", "npz", "text", "safetensors", "pickle", "directory"]
    sha256: str
    arrays: dict[str, np.ndarray]
    single: frozenset[str]

    @property
    def bytes(self) -> int:
        """Of all arrays in float64."""
        return sum(array.nbytes for array in self.arrays.values())


def read_numbers(target: str | Path, tensors: Sequence[str] | None = None) -> NumberFile:
    """Read the arrays of a file.

    Args:
        target: .npy; .npz; .csv, .tsv or .txt with numbers, one row a line; anything else is opened as a checkpoint.
        tensors: names or globs of the arrays to read of a .npz or a checkpoint; may be left out where there is one.

    Raises:
        CheckpointError: the file cannot be read, or holds something else than finite real numbers.
        UsageError: it is not said which array is meant, or there is none of that name.
    """
    path = Path(target)
    suffix = path.suffix.lower()
    if suffix not in (".npy", ".npz", *TEXT):
        return _of_checkpoint(target, tensors)
    regular_size(path)
    if suffix != ".npz" and tensors:
        raise UsageError(f"holds one array without a name, so there is no {tensors[0]!r} in it", where=str(path))
    kind = "npz" if suffix == ".npz" else "npy" if suffix == ".npy" else "text"
    how = {"what": "numbers", "remedy": "Give an array of real numbers"}
    if kind == "npy":
        found = {"": read_array(path, **how)}
    elif kind == "npz":
        names = _chosen(archive_names(path, **how), tensors, path, "array")
        found = {name: read_member(path, name, **how) for name in names}
    else:
        try:
            found = {"": _text(read_small(path, TEXT_LIMIT).decode("utf-8"))}
        except ValueError as problem:
            raise CheckpointError(
                f"cannot be read as numbers: {_first(problem)}", where=str(path), remedy=how["remedy"]
            ) from problem
    digest = hashlib.sha256()
    for piece in blocks(path):
        digest.update(piece)
    single = frozenset(name for name, x in found.items() if x.dtype.kind == "f" and x.dtype.itemsize <= 4)
    arrays = {name: _checked(x, f"{path}, array {clip(name)}" if name else str(path)) for name, x in found.items()}
    return NumberFile(path, kind, digest.hexdigest(), arrays, single)


def _text(content: str) -> np.ndarray:
    """Numbers separated by blanks, commas or semicolons, a row a line; # starts a comment. Raises ValueError."""
    lines = content.lstrip("\ufeff").replace(",", " ").replace(";", " ").splitlines()
    rows = [line.partition("#")[0].split() for line in lines]
    rows = [row for row in rows if row]
    if not rows:
        raise ValueError("there are none")
    if len({len(row) for row in rows}) > 1:
        raise ValueError("its rows have different lengths")
    table = np.array([[float(x) for x in row] for row in rows])
    return table.ravel() if 1 in table.shape else table


def _first(problem: ValueError) -> str:
    """What is wrong with a text, without all of the text."""
    return str(problem) if len(str(problem)) <= 120 else clip(str(problem))


def _of_checkpoint(target: str | Path, tensors: Sequence[str] | None) -> NumberFile:
    checkpoint = open_checkpoint(target)
    names = _chosen(list(checkpoint.tensors), tensors, checkpoint.path, "tensor")
    arrays = {name: _checked(checkpoint.read(name), f"{checkpoint.path}, tensor {clip(name)}") for name in names}
    single = frozenset(name for name in names if checkpoint.tensors[name].dtype in ("F32", "F16", "BF16"))
    return NumberFile(checkpoint.path, checkpoint.kind, checkpoint.sha256(), arrays, single)


def _chosen(names: list[str], patterns: Sequence[str] | None, path: Path, what: str) -> list[str]:
    shown = ", ".join(map(clip, names[:6])) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    if not patterns:
        if len(names) != 1:
            raise UsageError(
                f"holds {len(names)} {what}s, and none is chosen",
                where=str(path),
                remedy=f"Choose with --tensor NAME or a glob: {shown}",
            )
        return names
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(f"no {what} matches {pattern!r}", where=str(path), remedy=f"There are: {shown}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _checked(array: np.ndarray, where: str) -> np.ndarray:
    if array.dtype.kind not in "fiub":
        kind = "complex" if array.dtype.kind == "c" else f"of type {array.dtype}"
        raise CheckpointError(f"is {kind}, not real numbers", where=where, remedy="Give real numbers")
    values = np.asarray(array, dtype=np.float64)
    if not values.size:
        raise CheckpointError(f"is empty, shape {values.shape}", where=where)
    bad = values.size - np.count_nonzero(np.isfinite(values))
    if bad:
        raise CheckpointError(f"{bad} of {values.size} values are NaN or infinite", where=where)
    return values
