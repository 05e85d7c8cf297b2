"""Prompts as tokens, and continuations as text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssmtool.checkpoint.files import read_small
from ssmtool.errors import UsageError
from ssmtool.pipeline import tokens
from ssmtool.pipeline.model import Model
from ssmtool.pipeline.tokens import BYTES, TEXT_LIMIT, Tokens, TokenSource, read_tokens, spread_rows
from ssmtool.selective.language import Runner

COUNT, BEGINNING = 8, 64  # prompts taken from token sequences, and tokens of each


def encoded(text: str, model: Model, vocabulary: int) -> Tensor:
    """A text as tokens (1, L): by the model's tokenizer.json, or as bytes where it has none and 256 tokens.

    Raises:
        UsageError: no way to read a text, or an empty one.
    """
    ids = list(text.encode("utf-8")) if _bytes(model, vocabulary) else tokens.encoded(text, model)
    if not ids:
        raise UsageError("the prompt is empty", remedy="Give at least one token")
    return torch.tensor([ids], dtype=torch.int64)


def decoded(ids: Sequence[int], model: Model, vocabulary: int) -> str:
    """Tokens as text, the inverse of `encoded`; what is no UTF-8 is replaced. Raises UsageError."""
    if _bytes(model, vocabulary):
        return bytes(ids).decode("utf-8", "replace")
    return tokens.decoded(list(ids), model)


def prompts_of_file(path: Path, model: Model, runner: Runner) -> list[Tensor]:
    """A file's prompts: the rows of a .npy or .safetensors file of tokens, else the lines of a text but empty ones.

    Raises:
        UsageError: tokens or text that cannot be read as the model's.
        CheckpointError: a tokenizer or a file that cannot be read.
    """
    if path.suffix in (".npy", ".safetensors"):
        rows = read_tokens(TokenSource(file=path), model, runner).array
        return [torch.from_numpy(row[None]) for row in rows]
    try:
        text = read_small(path, TEXT_LIMIT).decode("utf-8")
    except UnicodeDecodeError as problem:
        raise UsageError(f"is not UTF-8 text (byte {problem.start})", where=str(path)) from problem
    return [encoded(line, model, runner.vocabulary) for line in text.splitlines() if line]


def beginnings(sequences: Tokens, count: int = COUNT, length: int = BEGINNING) -> list[Tensor]:
    """Prompts from sequences: the first tokens of `count` of them, at equal distances."""
    rows = spread_rows(sequences.array, count)[:, :length].astype(np.int64)
    return [torch.from_numpy(np.ascontiguousarray(row[None])) for row in rows]


def _bytes(model: Model, vocabulary: int) -> bool:
    """Whether tokens are bytes: 256 of them, and no tokenizer that says otherwise."""
    folder = model.checkpoint.path
    return vocabulary == BYTES and not (model.checkpoint.kind == "directory" and (folder / "tokenizer.json").is_file())
