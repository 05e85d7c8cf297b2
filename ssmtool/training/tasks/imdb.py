"""IMDB reviews, byte by byte: whether a review of a film is favourable.

Read from the folder aclImdb of ai.stanford.edu/~amaas/data/sentiment (Maas et al., ACL 2011):

    aclImdb/{train,test}/{neg,pos}/*.txt

A token is a byte, as in the Long Range Arena (Tay et al., ICLR 2021); reviews are cut after `max_length` bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from ssmtool.errors import UsageError
from ssmtool.training.tasks._contract import PADDING
from ssmtool.training.tasks._files import divided, folder_with, read_bytes

SUMMARY = "reviews of films as bytes, favourable or not; your files"
INPUTS, LENGTH, CLASSES = 256, 4096, 2
OPTIONS = {"max_length": 4096}
FILES = "aclImdb/{train,test}/{neg,pos}/*.txt"
PLACES = (".", "aclImdb")
RECIPE = {"width": 64, "epochs": 30, "batch": 16, "dropout": 0.1, "rate": 2e-3, "state_rate": 1e-3}
KINDS = ("neg", "pos")  # classes 0 and 1


def check(options: Mapping[str, int]) -> None:
    """Raises UsageError for a length below 1."""
    if options["max_length"] < 1:
        raise UsageError(f"option max_length of task imdb is {options['max_length']}", remedy="Give at least 1")


def load(part: str, options: Mapping[str, int], data: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Bytes (n, longest) int16, padded, and labels (n,) int64, files in the order of their names.

    Raises:
        DataError: a folder is missing or empty, or a file cannot be read.
    """
    root = folder_with(data, PLACES, "train", FILES)
    side = root / ("test" if part == "test" else "train")
    paths, labels = [], []
    for label, kind in enumerate(KINDS):
        found = sorted(folder_with(side, (kind,), "*.txt", FILES).glob("*.txt"))
        paths += found
        labels += [label] * len(found)
    chosen = np.arange(len(paths)) if part == "test" else divided(part, len(paths))
    # An empty file still is a sequence: one space.
    texts = [read_bytes(paths[index], FILES)[: options["max_length"]] or b" " for index in chosen]
    tokens = np.full((len(texts), max(map(len, texts))), PADDING, dtype=np.int16)
    for row, text in zip(tokens, texts, strict=True):
        row[: len(text)] = np.frombuffer(text, dtype=np.uint8)
    return torch.from_numpy(tokens), torch.tensor([labels[index] for index in chosen])
