"""The safetensors header: a strict parser and the writer.

A file is an 8-byte little-endian length n, n bytes of JSON ``{name: {dtype, shape, data_offsets: [begin, end]}}``
with an optional ``__metadata__`` of strings, and the data the offsets point into, without holes or overlaps.
Source: https://huggingface.co/docs/safetensors (format) and its Rust reader, whose rules are kept. The library itself
    is not used because it maps the file, cannot stream a write, and does not say where a file is wrong.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ssmtool.checkpoint.documents import clip, parse_object
from ssmtool.checkpoint.dtypes import BITS
from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.errors import CheckpointError

LIMIT = 100_000_000
"""Largest header in bytes, the library's own limit."""

RANK = 32
"""Most dimensions of a tensor, NumPy's limit before version 2."""

AGAIN = "The file is truncated or damaged: download or copy it again"
METADATA = "__metadata__"


@dataclass(frozen=True)
class Span:
    """A tensor and the bytes [begin, end) of the data section that hold it."""

    info: TensorInfo
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """A parsed header.

    Attributes:
        spans: by name, in the order of the data.
        metadata: the strings of ``__metadata__``.
        data_start: where the data section begins in the file.
    """

    spans: dict[str, Span]
    metadata: dict[str, str]
    data_start: int


def parse_header(text: bytes, *, file_size: int, where: str) -> Header:
    """Parse and check the JSON part of a header.

    Args:
        text: the n bytes after the length.
        file_size: of the whole file, in bytes; nothing is allocated from what the header claims.
        where: the file, for messages.

    Raises:
        CheckpointError: anything the format does not allow, naming the tensor.
    """
    document = parse_object(text, where=where, what="header", remedy=AGAIN)
    metadata = document.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) and _unicode(k + v) for k, v in metadata.items()):
        raise CheckpointError(f"{METADATA} is not a table of strings", where=where, remedy="Write the file again")
    data_start = 8 + len(text)
    spans = {name: _span(name, entry, where) for name, entry in document.items()}
    spans = dict(sorted(spans.items(), key=lambda item: (item[1].begin, item[1].end)))
    reached = 0
    for name, span in spans.items():
        if span.begin != reached:
            fault = "overlaps the tensor before it" if span.begin < reached else "leaves a hole before it"
            raise CheckpointError(
                f"data_offsets [{span.begin}, {span.end}] {fault}", where=_at(where, name), remedy=AGAIN
            )
        reached = span.end
    if data_start + reached != file_size:
        fault = "shorter" if data_start + reached > file_size else "longer"
        raise CheckpointError(
            f"has {file_size} bytes, {fault} than the {data_start + reached} its header describes",
            where=where,
            remedy=AGAIN,
        )
    return Header(spans, metadata, data_start)


def build_header(tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> bytes:
    """Length and JSON of a file that holds `tensors` in this order, space-padded so that the data is 8-aligned."""
    document: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    begin = 0
    for name, info in tensors.items():
        end = begin + info.size * BITS[info.dtype] // 8
        document[name] = {"dtype": info.dtype, "shape": list(info.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _span(name: str, entry: Any, where: str) -> Span:
    def refuse(what: str) -> CheckpointError:
        return CheckpointError(what, where=_at(where, name), remedy=AGAIN)

    if not _unicode(name):
        raise refuse("name is not valid Unicode")
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise refuse("header entry lacks dtype, shape or data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or not _unicode(dtype):
        raise refuse("dtype is not a string")
    if not isinstance(shape, list) or not all(type(d) is int and 0 <= d < 2**63 for d in shape):
        raise refuse("shape is not a list of sizes")
    if len(shape) > RANK:  # also keeps the product of a hostile shape a small number
        raise refuse(f"has {len(shape)} dimensions, more than {RANK}")
    if not isinstance(offsets, list) or [type(o) for o in offsets] != [int, int] or not 0 <= min(offsets) < 2**63:
        raise refuse("data_offsets are not two positions")
    begin, end = offsets
    if end < begin:
        raise refuse(f"data_offsets [{begin}, {end}] run backwards")
    info = TensorInfo(tuple(shape), dtype)
    if dtype not in BITS:
        raise refuse(f"has unknown dtype {clip(dtype)}")
    if info.size * BITS[dtype] != 8 * (end - begin):
        raise refuse(
            f"{dtype} of shape {clip(str(shape))[1:-1]} does not take {end - begin} bytes, as data_offsets say"
        )
    return Span(info, begin, end)


def _at(where: str, name: str) -> str:
    return f"{where}, tensor {clip(name)}"


def _unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
