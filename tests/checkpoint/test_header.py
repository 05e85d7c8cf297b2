"""Every way a safetensors file can be wrong gets its own line."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from ssmtool.checkpoint import open_checkpoint
from ssmtool.checkpoint.documents import parse_object
from ssmtool.errors import CheckpointError


def entry(begin: int, end: int, dtype: str = "F32", shape: object = None) -> dict:
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


def with_header(header: object, data: int = 8) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data)


GOOD = with_header({"a": entry(0, 8)})
CASES = {
    "truncated data": (GOOD[:-3], r"shorter than the \d+ its header describes.*truncated"),
    "trailing bytes": (GOOD + b"x", "longer than"),
    "truncated header": (GOOD[:20], "header claims .* bytes in a file of 20"),
    "too short": (GOOD[:5], "has 5 bytes, too few"),
    "empty": (b"", "is empty"),
    "petabytes": (struct.pack("<Q", 2**60) + b"{}", "header claims 1152921504606846976 bytes"),
    "not a checkpoint": (b"hello world, this is a text file", "is not a safetensors file"),
    "html": (b"\n<!DOCTYPE html><html>not found</html>", "is an HTML page"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer.*git lfs pull"),
    "pickle": (b"\x80\x02}q\x00.", "PyTorch pickle.*Rename it to weights.pt"),
    "zip": (b"PK\x03\x04" + bytes(40), "PyTorch pickle.*Rename it to weights.pt"),
    "not JSON": (with_header(b"{nonsense"), "header is not valid JSON"),
    "not UTF-8": (with_header(b"{\xff}"), "header is not valid JSON"),
    "nested without end": (with_header(b'{"a":' * 100_000), "header is not valid JSON"),
    "not an entry": (with_header({"a": 3}), "'a': header entry lacks"),
    "no dtype": (with_header({"a": {"shape": [], "data_offsets": [0, 8]}}), "lacks dtype"),
    "unknown dtype": (with_header({"a": entry(0, 8, "F33")}), "unknown dtype 'F33'"),
    "negative size": (with_header({"a": entry(0, 8, shape=[-2])}), "shape is not a list of sizes"),
    "boolean size": (with_header({"a": entry(0, 4, shape=[True])}, 4), "shape is not a list of sizes"),
    "fractional size": (with_header({"a": entry(0, 8, shape=[2.0])}), "shape is not a list of sizes"),
    "too many dimensions": (with_header({"a": entry(0, 8, shape=[2**62] * 9999)}), "9999 dimensions"),
    "wrong shape": (with_header({"a": entry(0, 8, shape=[3])}), r"F32 of shape \[3\] does not take 8 bytes"),
    "shape of petabytes": (with_header({"a": entry(0, 8, shape=[2**62, 2**62])}), "does not take 8 bytes"),
    "outside": (with_header({"a": entry(0, 800)}), "shorter than"),
    "negative offset": (with_header({"a": entry(-4, 4)}), "not two positions"),
    "three offsets": (
        with_header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 9]}}),
        "not two positions",
    ),
    "backwards": (with_header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}), "run backwards"),
    "overlap": (with_header({"a": entry(0, 8), "b": entry(4, 12)}, 12), "'b': data_offsets .* overlaps"),
    "hole": (with_header({"a": entry(0, 4), "b": entry(8, 12)}, 12), "'b': data_offsets .* leaves a hole"),
    "late start": (with_header({"a": entry(4, 8)}), "leaves a hole"),
    "same name twice": (with_header(b'{"a":1,"a":2}'), "header names 'a' twice"),
    "metadata of numbers": (with_header({"__metadata__": {"x": 1}, "a": entry(0, 8)}), "not a table of strings"),
    "lone surrogate": (with_header({"\ud800": entry(0, 8)}), "not valid Unicode"),
    "no tensors": (with_header({}, 0), "holds no tensors"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_file(case: str, tmp_path: Path) -> None:
    content, message = CASES[case]
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(path)
    line = caught.value.line()
    assert "\n" not in line
    assert len(line) < 500
    assert line.startswith(str(path))
    assert path.read_bytes() == content


def test_header_list(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(with_header(b"[1,2,3]"))
    with pytest.raises(CheckpointError, match="is not a safetensors file"):
        open_checkpoint(path)


def test_huge_header_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    with open(path, "wb") as file:  # sparse: takes no disk
        file.write(struct.pack("<Q", 200_000_000) + b"{")
        file.truncate(300_000_000)
    with pytest.raises(CheckpointError, match="more than the 100000000 allowed"):
        open_checkpoint(path)


def test_good_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(GOOD)
    assert open_checkpoint(path).read("a").tolist() == [0, 0]


@pytest.mark.parametrize("depth", [65, 900])
def test_tables_in_tables_without_end_are_refused(depth: int) -> None:
    """What walks a document later does so by recursion: copying a config.json, writing it again."""
    text = b'{"a": ' + b'{"a": ' * depth + b"1" + b"}" * (depth + 1)
    with pytest.raises(CheckpointError, match="nests more than 64 tables"):
        parse_object(text, where="config.json", what="the file")
    assert parse_object(b'{"a": ' + b"[" * 63 + b"]" * 63 + b"}", where="", what="")
