"""Sequential CIFAR-10: 32 x 32 photographs, read pixel by pixel as 1024 steps of three numbers, or of one.

Read from what www.cs.toronto.edu/~kriz/cifar.html distributes, either version:

    cifar-10-batches-bin/data_batch_{1..5}.bin, test_batch.bin    per image a label and 3 x 1024 bytes
    cifar-10-batches-py/data_batch_{1..5}, test_batch             pickles

The pickles are read by an unpickler that knows arrays of numbers and nothing else: it calls no function that a file
names. ``colour=0`` averages the colours with the weights of luminance (ITU-R 601), the Long Range Arena's "Image".
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssmtool.errors import DataError, UsageError
from ssmtool.training.tasks._files import divided, folder_with, read_bytes

SUMMARY = "32 x 32 photographs as sequences of 1024 times three numbers, 10 classes; your files"
INPUTS, LENGTH, CLASSES = 3, 1024, 10
OPTIONS = {"colour": 1}
FILES = "cifar-10-batches-bin/{data_batch_1..5,test_batch}.bin or cifar-10-batches-py/{data_batch_1..5,test_batch}"
PLACES = (".", "cifar-10-batches-bin", "cifar-10-batches-py")
BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
RECORD = 1 + 3 * LENGTH
LUMINANCE = (0.299, 0.587, 0.114)
RECIPE = {"width": 128, "depth": 6, "epochs": 100, "dropout": 0.1, "rate": 3e-3, "state_rate": 1e-3}


def check(options: Mapping[str, int]) -> None:
    """Raises UsageError for a colour that is neither 0 nor 1."""
    if options["colour"] not in (0, 1):
        raise UsageError(f"option colour of task scifar is {options['colour']}", remedy="Give colour=0 or colour=1")


def inputs(options: Mapping[str, int]) -> int:
    """Numbers per step."""
    return INPUTS if options["colour"] else 1


def load(part: str, options: Mapping[str, int], data: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequences (n, 1024, 3 or 1) float32 in [-1, 1] and labels (n,) int64.

    Raises:
        DataError: a file is missing, damaged, or not of this format.
    """
    folder = folder_with(data, PLACES, "test_batch*", FILES)
    names = ("test_batch",) if part == "test" else BATCHES
    found = [_batch(folder, name) for name in names]
    pixels, labels = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    if part != "test":
        chosen = divided(part, len(pixels))
        pixels, labels = pixels[chosen], labels[chosen]
    sequences = torch.from_numpy(pixels.astype(np.float32)).reshape(-1, INPUTS, LENGTH).mT.div(127.5).sub_(1)
    if not options["colour"]:
        sequences = sequences @ torch.tensor(LUMINANCE).unsqueeze(-1)
    return sequences.contiguous(), torch.from_numpy(labels.astype(np.int64))


def _batch(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (n, 3072) uint8, colour by colour, and labels (n,) uint8."""
    binary = (folder / "test_batch.bin").exists()
    path = folder / f"{name}.bin" if binary else folder / name
    content = read_bytes(path, FILES)
    pixels, labels = _records(content, path) if binary else _pickled(content, path)
    if not len(labels) or labels.max() >= CLASSES:
        raise DataError("holds labels that are not CIFAR-10's", where=str(path), remedy="Download it again")
    return pixels, labels


def _records(content: bytes, path: Path) -> tuple[np.ndarray, np.ndarray]:
    if len(content) % RECORD:
        raise DataError(f"is not made of records of {RECORD} bytes", where=str(path), remedy="Download it again")
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, RECORD)
    return records[:, 1:], records[:, 0]


def _pickled(content: bytes, path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        found = _Arrays(io.BytesIO(content), encoding="bytes").load()
        pixels, labels = np.asarray(found[b"data"]), np.asarray(found[b"labels"])
    except Exception as error:  # a damaged pickle raises anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"is not a batch of CIFAR-10: {reason}", where=str(path), remedy="Download it again") from error
    if pixels.dtype != np.uint8 or pixels.shape != (len(labels), RECORD - 1) or labels.dtype.kind not in "iu":
        raise DataError("holds no images of 3 x 32 x 32 bytes", where=str(path), remedy="Download it again")
    return pixels, labels


class _Arrays(pickle.Unpickler):
    """Builds dicts, lists, numbers, strings, and arrays of numbers; refuses every other name."""

    KNOWN = frozenset({("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")})

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.KNOWN:
            return _empty
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes into old protocols
            return _latin
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no batch of CIFAR-10 does")


def _empty(kind: type, shape: Any, code: Any) -> np.ndarray:
    """What NumPy's pickles start an array from; its content and shape follow in the stream."""
    return np.ndarray.__new__(np.ndarray, (0,), "b")


def _latin(text: str, encoding: str) -> bytes:
    return text.encode("latin-1")
