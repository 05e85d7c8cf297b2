"""ListOps: nested lists of digits under MIN, MAX, MED and SM, read token by token; the class is the value, 0 to 9.

Generated to the specification of Nangia and Bowman (ListOps, NAACL student workshop 2018) in the version of the Long
Range Arena (Tay et al., ICLR 2021): an argument is a list with probability 1/4 above the deepest level and a digit
otherwise, a list has 2 to 10 arguments, the lists are nested at most 10 deep, and sequences of more than 500 and fewer
than 2000 tokens are kept, no two the same. Operators come in one token with their bracket, ``[MIN``, and there are no
parentheses. MED is the median, the mean of the middle two rounded down where there are two; SM is the sum modulo 10.

The Arena's generator draws from Python's `random` without a seed; ours from a seeded one, so the sequences are not the
same ones. Those of the test part do not depend on how many are asked for to train on.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

import numpy as np
import torch

from ssmtool.errors import UsageError
from ssmtool.training.tasks._contract import PADDING

SUMMARY = "nested lists of digits under MIN, MAX, MED and SM as tokens, 10 classes, generated"
TOKENS = (*"0123456789", "[MIN", "[MAX", "[MED", "[SM", "]")
INPUTS, LENGTH, CLASSES = len(TOKENS), 2000, 10
OPTIONS = {
    "min_length": 500,
    "max_length": 2000,
    "max_depth": 10,
    "max_args": 10,
    "train": 96_000,
    "validation": 2_000,
    "test": 2_000,
    "seed": 0,
}
RECIPE = {"width": 128, "depth": 6, "epochs": 40, "batch": 50, "dropout": 0.0, "rate": 3e-3, "state_rate": 1e-3}
LIST_PROBABILITY = 0.25
PARTS = ("test", "validation", "train")  # in the order they are made: the test part stays when others change size
FIRST_OPERATOR, END = TOKENS.index("[MIN"), TOKENS.index("]")
PATIENCE = 200_000  # trees in a row that are too short, too long or known before the options are called impossible


def check(options: Mapping[str, int]) -> None:
    """Raises UsageError for options no sequence fits."""
    low, high = options["min_length"], options["max_length"]
    if not 0 <= low < high - 1:
        raise UsageError(
            f"listops of more than {low} and fewer than {high} tokens do not exist", remedy="Raise max_length"
        )
    for name, least in (("max_depth", 2), ("max_args", 2), ("train", 1), ("validation", 1), ("test", 1)):
        if options[name] < least:
            raise UsageError(f"option {name} of task listops is {options[name]}", remedy=f"Give at least {least}")


def load(part: str, options: Mapping[str, int] = OPTIONS) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (n, longest) int16, padded, and values (n,) int64."""
    start = sum(options[before] for before in PARTS[: PARTS.index(part)])
    stop = start + options[part]
    found, source = _stream(tuple((name, value) for name, value in sorted(options.items()) if name not in PARTS))
    while len(found) < stop:
        found.append(next(source))
    sequences = found[start:stop]
    tokens = np.full((len(sequences), max(len(tokens) for tokens, _ in sequences)), PADDING, dtype=np.int16)
    for row, (sequence, _) in zip(tokens, sequences, strict=True):
        row[: len(sequence)] = np.frombuffer(sequence, dtype=np.uint8)
    return torch.from_numpy(tokens), torch.tensor([value for _, value in sequences])


@lru_cache(maxsize=2)
def _stream(options: tuple[tuple[str, int], ...]) -> tuple[list[tuple[bytes, int]], Iterator[tuple[bytes, int]]]:
    """The sequences made so far, as (tokens, value), and the source of those that follow."""
    return [], _different(dict(options))


def _different(options: Mapping[str, int]) -> Iterator[tuple[bytes, int]]:
    """Sequences of allowed length, each once."""
    # The method random() of Python's generator is the one whose values are promised to stay the same.
    uniform = random.Random(options["seed"]).random
    low, high, seen, in_vain = options["min_length"], options["max_length"], set[bytes](), 0
    while True:
        tokens = bytearray()
        try:
            value = _grow(tokens, uniform, 1, options["max_depth"], options["max_args"], high)
        except _TooLong:
            value = -1
        sequence = bytes(tokens)
        if low < len(sequence) < high and sequence not in seen:
            seen.add(sequence)
            in_vain = 0
            yield sequence, value
        elif (in_vain := in_vain + 1) >= PATIENCE:
            raise UsageError(
                f"after {len(seen)} sequences of listops no new ones are found",
                remedy="Widen its options or ask for fewer",
            )


class _TooLong(Exception):
    """The tree at hand cannot be used any more."""


def _grow(tokens: bytearray, uniform: Callable[[], float], depth: int, deepest: int, most: int, limit: int) -> int:
    """Append a random argument at `depth` to `tokens` and return its value. Raises _TooLong at `limit` tokens."""
    if len(tokens) >= limit:
        raise _TooLong
    if depth >= deepest or uniform() >= LIST_PROBABILITY:
        digit = int(10 * uniform())
        tokens.append(digit)
        return digit
    operator = int(4 * uniform())
    tokens.append(FIRST_OPERATOR + operator)
    count = 2 + int((most - 1) * uniform())
    values = [_grow(tokens, uniform, depth + 1, deepest, most, limit) for _ in range(count)]
    tokens.append(END)
    return VALUE[operator](values)


def _median(values: list[int]) -> int:
    ordered, count = sorted(values), len(values)
    return (ordered[(count - 1) // 2] + ordered[count // 2]) // 2


VALUE = (min, max, _median, lambda values: sum(values) % 10)  # in the order of TOKENS
