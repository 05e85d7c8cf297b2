"""Damaged checkpoints: whatever is damaged, they are read or refused, and nothing else happens."""

from __future__ import annotations

import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from ssmtool.checkpoint import open_checkpoint
from ssmtool.errors import SsmtoolError

MEMORY = 64 << 20
"""Bytes; the files below have a few thousand."""


def read_or_refuse(target: Path) -> None:
    """Open and read everything; anything but success or a one-line SsmtoolError fails, as does taking much memory."""
    lines = []
    tracemalloc.start()
    try:
        source = open_checkpoint(target)
        for name, info in source.tensors.items():
            try:
                assert source.read(name).shape == info.shape
            except SsmtoolError as error:
                lines.append(error.line())
    except SsmtoolError as error:
        lines.append(error.line())
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert not any("\n" in line for line in lines)
    assert peak < MEMORY


edits = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6)
numbers = st.one_of(st.integers(-2, 300), st.sampled_from([2**31, 2**53, 2**62, 2**63, 2**64, 10**40]), st.just(1.5))
values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=5), st.sampled_from(["F32", "BOOL", "F4", "../x"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def damaged(content: bytes, changes: list[tuple[float, int]], keep: float) -> bytes:
    """Bytes replaced at relative positions, and the end cut off."""
    data = bytearray(content)
    for position, byte in changes:
        data[int(position * len(data))] = byte
    return bytes(data[: max(1, int(keep * len(data)))])


def edited(document: dict, data: st.DataObject) -> dict:
    """One value anywhere in a JSON document replaced, removed, or added under a new name."""
    here: Any = document
    while True:
        key = data.draw(st.sampled_from(sorted(here) if isinstance(here, dict) else list(range(len(here)))))
        inner = here[key]
        if not isinstance(inner, dict | list) or not inner or data.draw(st.booleans()):
            break
        here = inner
    action = data.draw(st.sampled_from(["replace", "remove", "add"]))
    if action == "remove":
        del here[key]
    elif action == "add" and isinstance(here, dict):
        here[data.draw(st.text(max_size=5))] = data.draw(st.one_of(st.just(inner), values))
    else:
        here[key] = data.draw(values)
    return document


cuts = st.one_of(st.just(1.0), st.floats(0, 1))


@given(changes=edits, keep=cuts)
def test_bytes_of_a_single_file(single: Path, changes: list, keep: float) -> None:
    target = single.with_name("damaged.safetensors")
    target.write_bytes(damaged(single.read_bytes(), changes, keep))
    read_or_refuse(target)


@given(data=st.data())
def test_fields_of_a_header(single: Path, data: st.DataObject) -> None:
    content = single.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    text = json.dumps(edited(json.loads(content[8 : 8 + length]), data)).encode()
    claimed = data.draw(st.one_of(st.just(len(text)), st.integers(0, 2**64 - 1)))
    target = single.with_name("damaged.safetensors")
    target.write_bytes(struct.pack("<Q", claimed) + text + content[8 + length :])
    read_or_refuse(target)


@given(data=st.data(), changes=edits, keep=cuts)
def test_a_directory(sharded: Path, data: st.DataObject, changes: list, keep: float) -> None:
    name = data.draw(st.sampled_from(sorted(path.name for path in sharded.glob("model*"))))
    original = (sharded / name).read_bytes()
    if name.endswith(".json") and data.draw(st.booleans()):
        content = json.dumps(edited(json.loads(original), data)).encode()
    else:
        content = damaged(original, changes, keep)
    (sharded / name).write_bytes(content)
    try:
        read_or_refuse(sharded)
    finally:
        (sharded / name).write_bytes(original)


@given(changes=edits, keep=cuts, legacy=st.booleans())
@example(changes=[(0.5625, 4)], keep=1.0, legacy=True)  # asks for 64 MB of a small file
def test_bytes_of_a_pickle(pickled: Path, changes: list, keep: float, legacy: bool) -> None:
    import torch

    whole = pickled.with_name(f"whole-{legacy}.pt")
    if not whole.exists():
        document = torch.load(pickled, weights_only=True)
        torch.save(document, whole, _use_new_zipfile_serialization=not legacy)
    target = pickled.with_name("damaged.pt")
    target.unlink(missing_ok=True)  # an earlier one may still be mapped: never write into it
    target.write_bytes(damaged(whole.read_bytes(), changes, keep))
    read_or_refuse(target)
