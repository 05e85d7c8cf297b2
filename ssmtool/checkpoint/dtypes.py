"""Storage types: their size, and the exact way between stored bytes and float64 / complex128 / int64 arrays."""

from __future__ import annotations

import numpy as np

from ssmtool.errors import CheckpointError, OutputError

BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "C64": 64, "C128": 128,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
"""Bits per element of every storage type whose size is known."""

_STORED = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "C64": "<c8", "C128": "<c16", "BOOL": "u1",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
}  # fmt: skip
_BF16_MAX = float.fromhex("0x1.fep127")


def decode(data: bytes | bytearray | np.ndarray, dtype: str, shape: tuple[int, ...], *, where: str = "") -> np.ndarray:
    """Stored bytes as numbers, exactly.

    Returns:
        array of `shape`: F* -> float64, C* -> complex128, integers and BOOL -> int64.

    Raises:
        CheckpointError: a dtype that is not read as numbers, or a U64 value above the int64 range.
    """
    if dtype not in _STORED:
        raise CheckpointError(
            f"has dtype {dtype}, which is not read as numbers",
            where=where,
            remedy=f"Store it as one of {', '.join(_STORED)}",
        )
    stored = np.frombuffer(data, dtype=_STORED[dtype]).reshape(shape)
    if dtype == "BF16":
        stored = (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if dtype == "BOOL":
        return (stored != 0).astype(np.int64)
    if dtype == "U64" and np.any(stored > np.uint64(2**63 - 1)):
        raise CheckpointError("holds U64 values beyond 2^63 - 1", where=where, remedy="Store it as I64")
    with np.errstate(invalid="ignore"):  # a signalling NaN; the caller counts NaNs
        return stored.astype({"f": np.float64, "c": np.complex128}.get(stored.dtype.kind, np.int64))


def encode(array: np.ndarray, dtype: str, *, where: str = "") -> np.ndarray:
    """Numbers as stored bytes, rounded to nearest, ties to even, in one step from float64.

    Args:
        array: real, complex or integer; any shape.
        dtype: one that `decode` reads.

    Returns:
        (bytes,) uint8, little-endian, row-major.

    Raises:
        OutputError: values that are not finite, that overflow, or that the type cannot hold (complex, fractions).
    """
    if dtype not in _STORED:
        raise OutputError(f"cannot be stored as {dtype}", where=where, remedy=f"Use one of {', '.join(_STORED)}")
    values = np.asarray(array)
    bad = values.size - np.count_nonzero(np.isfinite(values))
    if bad:
        raise OutputError(f"{bad} of {values.size} values to store are NaN or infinite", where=where)
    if np.iscomplexobj(values) and dtype not in ("C64", "C128"):
        raise OutputError(f"is complex and cannot be stored as {dtype}", where=where, remedy="Use C64")
    if dtype in ("F64", "F32", "F16", "BF16", "C64", "C128"):
        stored = _bfloat16(values) if dtype == "BF16" else _floating(values, _STORED[dtype])
    else:
        stored = _integer(values, dtype, where)
    over = 0 if stored is None else stored.size - np.count_nonzero(np.isfinite(stored))
    if stored is None or over:
        largest = np.max(np.abs(values))
        raise OutputError(
            f"values up to {largest:.3g} do not fit into {dtype}",
            where=where,
            remedy="Store the tensor in a wider dtype",
        )
    if dtype == "BF16":
        stored = (np.atleast_1d(stored).view(np.uint32) >> np.uint32(16)).astype("<u2")
    return np.ascontiguousarray(stored).reshape(-1).view(np.uint8)


def round_to(array: np.ndarray, dtype: str) -> np.ndarray:
    """The values `array` has after storage in `dtype`: round to nearest, ties to even, BF16 included.

    Args:
        array: real, complex or integer; any shape.
        dtype: safetensors spelling.

    Returns:
        float64, complex128 or int64 of the same shape.

    Raises:
        OutputError: values that are not finite, overflow to infinity, or that the type cannot hold.
    """
    values = np.asarray(array)
    return decode(encode(values, dtype), dtype, values.shape)


def _floating(values: np.ndarray, stored: str) -> np.ndarray:
    with np.errstate(over="ignore", under="ignore"):  # the caller looks for infinities; underflow rounds to zero
        return values.astype(stored)


def _bfloat16(values: np.ndarray) -> np.ndarray | None:
    """Values rounded to BF16, as float32; None if one overflows.

    Scaling by the power of two of the last stored bit, rounding there and scaling back are each exact in float64 but
    for the rounding itself, so ties are decided on the float64 value and not on a float32 rounding of it.
    """
    exact = np.asarray(values, dtype=np.float64)
    _, exponent = np.frexp(exact)
    last_bit = np.ldexp(1.0, np.maximum(exponent - 1, -126) - 7)  # BF16: 8 significant bits, subnormals below 2^-126
    rounded = np.rint(exact / last_bit) * last_bit
    return None if np.any(np.abs(rounded) > _BF16_MAX) else rounded.astype(np.float32)


def _integer(values: np.ndarray, dtype: str, where: str) -> np.ndarray | None:
    """Whole numbers in the type's range, as stored; None if one is out of range."""
    if values.dtype.kind == "f" and np.any(values != np.rint(values)):
        raise OutputError(f"has fractions and cannot be stored as {dtype}", where=where)
    stored = np.dtype(_STORED[dtype])
    low, high = (0, 1) if dtype == "BOOL" else (int(np.iinfo(stored).min), int(np.iinfo(stored).max))
    if values.size and (int(values.min()) < low or int(values.max()) > high):
        return None
    return values.astype(stored)
