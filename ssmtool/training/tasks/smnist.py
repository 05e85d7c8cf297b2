"""Sequential MNIST: 28 x 28 handwritten digits, read pixel by pixel as 784 steps of one number.

Read from the files that yann.lecun.com distributed, which torchvision keeps under MNIST/raw, packed or not:

    train-images-idx3-ubyte  train-labels-idx1-ubyte  t10k-images-idx3-ubyte  t10k-labels-idx1-ubyte

The idx format is a magic number that ends in the number of axes, a big-endian size per axis, and the bytes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ssmtool.errors import DataError
from ssmtool.training.tasks._files import divided, folder_with, read_bytes

SUMMARY = "28 x 28 handwritten digits as sequences of 784 numbers, 10 classes; your files"
INPUTS, LENGTH, CLASSES = 1, 784, 10
NAMES = {"train": "train", "validation": "train", "test": "t10k"}
FILES = "{train,t10k}-{images-idx3,labels-idx1}-ubyte, packed with gzip or not, in DIR, DIR/raw or DIR/MNIST/raw"
PLACES = (".", "raw", "MNIST/raw")
RECIPE = {"width": 96, "epochs": 40, "dropout": 0.1, "rate": 3e-3, "state_rate": 1e-3}


def load(part: str, data: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequences (n, 784, 1) float32 in [-1, 1] and labels (n,) int64.

    Raises:
        DataError: a file is missing, damaged, or not of this format.
    """
    name = NAMES[part]
    folder = folder_with(data, PLACES, f"{name}-images-idx3-ubyte*", FILES)
    images, labels = _array(folder, f"{name}-images-idx3-ubyte", 3), _array(folder, f"{name}-labels-idx1-ubyte", 1)
    if len(images) != len(labels) or images[0].size != LENGTH or labels.max() >= CLASSES:
        raise DataError(f"the images {images.shape} and labels {labels.shape} are not MNIST's", where=str(folder))
    if part != "test":
        chosen = divided(part, len(images))
        images, labels = images[chosen], labels[chosen]
    sequences = torch.from_numpy(images.reshape(-1, LENGTH, INPUTS).astype(np.float32))
    return sequences.div_(127.5).sub_(1), torch.from_numpy(labels.astype(np.int64))


def _array(folder: Path, name: str, axes: int) -> np.ndarray:
    """The array of unsigned bytes in an idx file."""
    path = folder / name if (folder / name).exists() else folder / f"{name}.gz"
    content = read_bytes(path, FILES)
    start = 4 + 4 * axes
    shape = tuple(np.frombuffer(content[4:start], dtype=">u4").tolist()) if len(content) >= start else ()
    if content[:4] != bytes([0, 0, 8, axes]) or int(np.prod(shape)) != len(content) - start or 0 in shape:
        raise DataError(f"is not an idx file of bytes with {axes} axes", where=str(path), remedy="Download it again")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)
