"""Stored values: torch is the second opinion where it rounds once, exact rationals where it rounds twice."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssmtool.checkpoint.dtypes import decode, encode, round_to
from ssmtool.errors import CheckpointError, OutputError

TORCH = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@pytest.mark.parametrize("dtype", TORCH)
def test_floats_agree_with_torch(dtype: str) -> None:
    # float32 inputs: torch then rounds once to every type
    values = torch.randn(2000, generator=torch.Generator().manual_seed(1)) * torch.logspace(-6, 4, 2000)
    np.testing.assert_array_equal(round_to(values.numpy(), dtype), values.to(TORCH[dtype]).double().numpy())


@given(st.floats(-3e38, 3e38))
def test_bfloat16_is_the_nearest_and_even_on_ties(value: float) -> None:
    got = float(round_to(np.array(value), "BF16"))
    bits = int(np.array(abs(got), dtype=np.float32).view(np.uint32))
    assert bits & 0xFFFF == 0
    error = abs(abs(Fraction(value)) - Fraction(abs(got)))
    for neighbour in (bits - 0x10000, bits + 0x10000):
        if 0 <= neighbour < 0x7F800000:
            other = float(np.array(neighbour, np.uint32).view(np.float32))
            distance = abs(abs(Fraction(value)) - Fraction(other))
            assert error < distance or (error == distance and (bits >> 16) % 2 == 0)


def test_bfloat16_ties_are_decided_on_the_float64_value() -> None:
    just_above_half = 1 + 2.0**-8 + 2.0**-40  # through float32 this would be the tie itself, and round down
    assert round_to(np.array(just_above_half), "BF16") == 1 + 2.0**-7
    assert round_to(np.array(1 + 2.0**-8), "BF16") == 1
    assert round_to(np.array(2.0**-133), "BF16") == 2.0**-133
    assert round_to(np.array(2.0**-135), "BF16") == 0


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16", "C64", "C128", "I64", "I8", "U64", "U8", "BOOL"])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_stored_values_survive(dtype: str, shape: tuple[int, ...]) -> None:
    values = np.ones(shape)
    again = decode(encode(values, dtype), dtype, shape)
    assert again.shape == shape
    assert again.dtype == {"C": np.complex128, "F": np.float64, "B": np.float64}.get(
        dtype[0] if dtype != "BOOL" else "", np.int64
    )
    np.testing.assert_array_equal(again, values)


@pytest.mark.parametrize(
    ("dtype", "value"), [("F16", 65520.0), ("BF16", 3.3962e38), ("F32", 1e39), ("C64", 1e39j), ("I8", 128), ("BOOL", 2)]
)
def test_overflow_is_refused(dtype: str, value: complex) -> None:
    with pytest.raises(OutputError, match=f"do not fit into {dtype}.*wider"):
        round_to(np.array([value, 0]), dtype)


def test_largest_values_are_kept() -> None:
    assert round_to(np.array(65519.0), "F16") == 65504
    assert round_to(np.array(-3.3895e38), "BF16") == -float.fromhex("0x1.fep127")


@pytest.mark.parametrize(
    ("array", "dtype", "message"),
    [
        ([np.nan, np.inf, 1], "F32", "2 of 3"),
        ([1j], "F32", "complex"),
        ([0.5], "I32", "fractions"),
        ([1.0], "F8_E4M3", "cannot be stored"),
    ],
)
def test_unfit_values_are_refused(array: list, dtype: str, message: str) -> None:
    with pytest.raises(OutputError, match=message):
        encode(np.array(array), dtype)


def test_unreadable_dtypes_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"F8_E4M3.*not read as numbers"):
        decode(b"\0", "F8_E4M3", (1,))
    with pytest.raises(CheckpointError, match="beyond"):
        decode(b"\xff" * 8, "U64", (1,))
