"""Dataclasses as arrays: what comes back is what went in, to the bit, and nothing else is taken for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ssmtool.cache import Cache, digest
from ssmtool.pipeline.packing import TREE, packed, unpacked


@dataclass(frozen=True)
class Inner:
    kind: Literal["a", "b"]
    values: NDArray[np.complexfloating]


@dataclass(frozen=True)
class Outer:
    name: str
    count: int
    share: float
    flag: bool
    maybe: float | None
    pair: tuple[str, float]
    many: tuple[int, ...]
    inner: Inner | None
    rows: tuple[Inner, ...]
    named: Mapping[str, float]
    either: np.ndarray | float


NUMBERS = st.floats()
INNER = st.builds(
    Inner, st.sampled_from("ab"), st.lists(st.complex_numbers(), max_size=3).map(lambda x: np.array(x, complex))
)
OUTER = st.builds(
    Outer,
    name=st.text(),
    count=st.integers(),
    share=NUMBERS,
    flag=st.booleans(),
    maybe=st.none() | NUMBERS,
    pair=st.tuples(st.text(), NUMBERS),
    many=st.lists(st.integers()).map(tuple),
    inner=st.none() | INNER,
    rows=st.lists(INNER, max_size=3).map(tuple),
    named=st.dictionaries(st.text(), NUMBERS, max_size=3),
    either=NUMBERS | st.lists(NUMBERS).map(np.array),
)


def bits(value: Any) -> str:
    """Everything in a value, NaN and the sign of zero included; Python writes floats so that they can be read back."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape} {value.tobytes()!r}"
    if hasattr(value, "__dataclass_fields__"):
        return f"{type(value).__name__}({', '.join(f'{k}={bits(v)}' for k, v in vars(value).items())})"
    if isinstance(value, tuple):
        return f"({', '.join(map(bits, value))})"
    return repr(value)


@given(OUTER)
def test_what_comes_back_is_what_went_in(value):
    assert bits(unpacked(Outer, packed(value))) == bits(value)


EXAMPLE = Outer("n", 1, 0.5, True, None, ("x", 1.0), (1, 2), None, (Inner("a", np.ones(2, complex)),), {"k": 1.0}, 2.0)


def test_entries_of_a_cache_hold_it(tmp_path):
    key = digest("test", 1)
    Cache(tmp_path).put(key, packed(EXAMPLE))
    assert bits(unpacked(Outer, Cache(tmp_path).get(key) or {})) == bits(EXAMPLE)


def test_numbers_of_numpy_are_kept_as_numbers():
    value = Inner("a", np.ones(1, complex)), np.float64(0.1), np.int64(3)
    changed = Outer("n", value[2], value[1], np.True_, value[1], ("x", value[1]), (value[2],), None, (), {}, 2.0)  # type: ignore[arg-type]
    back = unpacked(Outer, packed(changed))
    assert (back.count, back.share, back.flag, back.many) == (3, 0.1, True, (3,))


def test_fields_that_are_left_out_are_given():
    kept = packed(EXAMPLE, leaving=("name", "inner"))
    assert unpacked(Outer, kept, name="other", inner=None).name == "other"
    with pytest.raises(TypeError, match="fields of Outer"):
        unpacked(Outer, kept)
    with pytest.raises(TypeError, match="fields of Outer"):
        unpacked(Outer, packed(EXAMPLE), name="twice")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", 1), ("count", 1.5), ("count", True), ("flag", 1), ("share", "1"), ("maybe", []), ("pair", ["x"]),
        ("pair", "x"), ("many", [1, "2"]), ("inner", {"kind": "a"}), ("inner", {"kind": "c", "values": "either"}),
        ("rows", [{"kind": "a", "values": "no such array"}]), ("rows", [{"kind": "a", "values": 1}]), ("named", []),
        ("named", {"k": "v"}), ("either", "no such array"), ("either", None),
    ],
)  # fmt: skip
def test_what_is_of_another_type_is_refused(field, value):
    arrays = packed(EXAMPLE)
    tree = json.loads(arrays[TREE].tobytes())
    text = json.dumps({**tree, field: value}).encode()
    with pytest.raises((KeyError, ValueError, TypeError)):
        unpacked(Outer, {**arrays, TREE: np.frombuffer(text, np.uint8)})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(st.dictionaries(st.sampled_from([f.name for f in fields(Outer)]), JSON))
def test_whatever_an_entry_says_it_is_this_dataclass_or_refused(changes):
    arrays = packed(EXAMPLE)
    text = json.dumps({**json.loads(arrays[TREE].tobytes()), **changes}).encode()
    try:
        back = unpacked(Outer, {**arrays, TREE: np.frombuffer(text, np.uint8)})
    except (KeyError, ValueError, TypeError):
        return
    assert bits(unpacked(Outer, packed(back))) == bits(back)


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b'{"name": "n"}', b"\xff", b"[" * 100_000])
def test_what_is_no_entry_is_refused(text):
    with pytest.raises((KeyError, ValueError, TypeError)):
        unpacked(Outer, {TREE: np.frombuffer(text, np.uint8)})
    with pytest.raises(KeyError):
        unpacked(Outer, {})


def test_what_cannot_be_kept_is_said():
    @dataclass(frozen=True)
    class Odd:
        content: Any

    for content in (object(), {1: 2}, {"a": {1, 2}}, b"bytes"):
        with pytest.raises(TypeError, match="content"):
            packed(Odd(content))
