"""Damage to valid files, as a function of a few integers: hypothesis chooses and shrinks those."""

from __future__ import annotations

import copy
import io
import json
import pickletools
import struct
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

Edit = tuple[int, int, int]
"""(what is done, where, with what); each is reduced modulo the number of choices there are."""

Damage = Callable[[bytes, Sequence[Edit]], bytes]

big = st.integers(0, 2**32 - 1)
edits = st.lists(st.tuples(big, big, big), min_size=1, max_size=5)

NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    8,
    255,
    2**16,
    10**6,
    2**31 - 1,
    2**31,
    2**32,
    2**40,
    2**53,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
)

PIECES = (
    b"NaN", b"-Infinity", b"1e999", b"-1", b"0", b"9" * 30, b"9" * 5000, b"1.5", b"null", b"true", b'""', b"{}", b"[]",
    b'"\\u0000"', b'"\\ud800"', b"\xff\xfe", b"\xc3", b"\x00", b"\r\n", b"\x1b[2J", b"../", b"/etc/passwd",
    b"[" * 3000, b"[" * 100_000, b'{"a":' * 3000, b'"a":1,"a":2,', b",", b":", b'"', b"}", b"]",
    b'"shape"', b'"data_offsets"', b'"dtype"', b'"F32"', b'"BF16"', b'"F4"', b"__metadata__",
    b"'descr'", b"'|O'", b"'<f8'", b"'<U999999999'", b"True", b"(10000000000,)", b"(0, 9999999999999)", b"(-1,)",
    b"\x93NUMPY", b"PK\x03\x04", b"PK\x05\x06", b"PK\x01\x02",
    b"nan", b"inf", b"1e400", b"#", b";", b"\xe2\x80\xa8", b"\xef\xbb\xbf",
)  # fmt: skip

OPCODES = (
    b"cos\nsystem\n(X\x04\x00\x00\x00trueptR", b"cbuiltins\neval\n(X\x01\x00\x00\x001ptR", b"cbuiltins\nexec\n",
    b"ctorch.hub\nload\n", b"cposix\nsystem\n", b"csubprocess\nPopen\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._utils\n_rebuild_sparse_tensor\n", b"ctorch\nFloatStorage\n", b"ccollections\nOrderedDict\n",
    b"\x8c\x02os\x8c\x06system\x93", b"(", b")", b"}", b"]", b"t", b"R", b"b", b"\x81", b"0", b"1", b"2", b".", b"N",
    b"\x88", b"Q", b"s", b"u", b"a", b"e", b"l", b"d", b"\x8a\x08" + b"\xff" * 7 + b"\x7f", b"J\xff\xff\xff\x7f",
    b"X\xff\xff\xff\x7f", b"\x8e" + b"\xff" * 7 + b"\x7f", b"\x8b\xff\xff\xff\x7f", b"r\xff\xff\xff\xff", b"h\x00",
    b"\x95" + b"\xff" * 8, b"I" + b"9" * 5000 + b"\n", b"Fnan\n", b"(" * 5000, b"]" * 3000,
)  # fmt: skip

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 16, 255, 1.5, -0.0, 1e-320, 1e308, 2**31, 2**53, 2**63, 2**64, 10**40,
    float("nan"), float("inf"), "", "a", "F32", "F64", "BF16", "C64", "BOOL", "F4", "U8", "nan", "0", "-1", "../x",
    "/x", "\x00", "\x1b[2J", "\ud800", "\u2028", "a\nb", "x" * 300, [], [[]], {}, [0], [1, 2], [None], [-1], [0, 0],
    [2**62], ["x"], {"a": 1}, {"": None}, [1.5], [[1, 2], [3]], [True], list(range(40)),
)  # fmt: skip


def bytes_damaged(content: bytes, changes: Sequence[Edit], pieces: Sequence[bytes] = PIECES) -> bytes:
    """Bits flipped, bytes set, ends cut off, pieces put in, taken out, repeated; lengths overwritten."""
    data = bytearray(content)
    for what, where, value in changes:
        at, span = where % (len(data) + 1), 1 + value % 40
        kind = what % 11
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << value % 8
        elif kind == 1 and data:
            data[at % len(data)] = value % 256
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            data[at:at] = pieces[value % len(pieces)]
        elif kind == 4:
            piece = pieces[value % len(pieces)]
            data[at : at + len(piece)] = piece
        elif kind == 5:
            del data[at : at + span]
        elif kind == 6:
            data[at:at] = data[at : at + span]
        elif kind == 7:  # a length or an offset of eight bytes, wherever one may be
            data[at : at + 8] = struct.pack("<Q", NUMBERS[value % len(NUMBERS)])
        elif kind == 8:
            data[at : at + 4] = struct.pack("<I", NUMBERS[value % len(NUMBERS)] % 2**32)
        elif kind == 9:  # the beginning, where formats keep what they claim
            data[where % 16 : where % 16 + 1] = bytes([value % 256])
        else:
            data += pieces[value % len(pieces)]
    return bytes(data)


def object_damaged(document: Any, changes: Sequence[Edit]) -> Any:
    """Values anywhere in a JSON document replaced, removed, added, renamed, or put into one another."""
    root = [document]
    for what, where, value in changes:
        here: Any = root
        path = where
        while isinstance(here, dict | list) and here:
            keys = list(here) if isinstance(here, dict) else range(len(here))
            key = keys[path % len(keys)]
            path //= len(keys)
            if not isinstance(here[key], dict | list) or not here[key] or path % 4 == 0:
                break
            here = here[key]
        else:
            continue
        new = copy.deepcopy(VALUES[value % len(VALUES)])
        kind = what % 7
        if kind == 0 and here is not root:
            del here[key]
        elif kind == 1 and isinstance(here, dict):
            here[str(new)] = here[key]
        elif kind == 2 and isinstance(here, dict):
            here[str(new)] = here.pop(key)
        elif kind == 3:
            here[key] = [here[key]]
        elif kind == 4 and isinstance(here, list) and here is not root:
            here.append(new)
        elif kind == 5 and isinstance(here[key], int) and not isinstance(here[key], bool):
            here[key] += (-1, 1, 2**31, -(2**31), 10**12)[value % 5]
        else:
            here[key] = new
    return root[0]


def json_damaged(content: bytes, changes: Sequence[Edit]) -> bytes:
    """A JSON document changed as a document."""
    return json.dumps(object_damaged(json.loads(content), changes)).encode("utf-8", "surrogatepass")


def header_damaged(content: bytes, changes: Sequence[Edit]) -> bytes:
    """The header of a safetensors file changed as a document, its length put right."""
    (length,) = struct.unpack("<Q", content[:8])
    text = json_damaged(content[8 : 8 + length], changes)
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def record_damaged(content: bytes, changes: Sequence[Edit]) -> bytes:
    """What `compress` recorded of itself in the metadata, changed as a document."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    for key in ("ssmtool", "ssmtool_blocks"):
        if key in header.get("__metadata__", {}):
            record = header["__metadata__"][key].encode()
            broken = bytes_damaged if changes[0][0] % 3 == 0 else json_damaged
            header["__metadata__"][key] = broken(record, changes).decode("utf-8", "replace")
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def pickle_damaged(content: bytes, changes: Sequence[Edit]) -> bytes:
    """A pickle with opcodes put in, replaced and left out, at the boundaries of others."""
    try:
        starts = [position for _, _, position in pickletools.genops(content) if position is not None]
    except ValueError:
        return bytes_damaged(content, changes, OPCODES)
    data = content
    for what, where, value in changes:
        index = where % len(starts)
        at, after = starts[index], starts[index + 1] if index + 1 < len(starts) else len(content)
        piece = OPCODES[value % len(OPCODES)]
        kind = what % 4
        if kind == 0:
            data = data[:at] + piece + data[at:]
        elif kind == 1:
            data = data[:at] + data[after:]
        elif kind == 2:
            data = data[:at] + piece + data[after:]
        else:
            data = bytes_damaged(data, [(value, where, what)], OPCODES)
    return data


def member_damaged(inner: Damage) -> Damage:
    """A member of a zip archive damaged, the archive around it whole, checksums included."""

    def damage(content: bytes, changes: Sequence[Edit]) -> bytes:
        (_, where, _), written = changes[0], io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(written, "w") as new:
            # the first members say most
            chosen = old.namelist()[: 1 + where % len(old.namelist())][-1] if where % 2 else old.namelist()[0]
            for name in old.namelist():
                data = old.read(name)
                new.writestr(name, inner(data, changes[1:] or changes) if name == chosen else data)
        return written.getvalue()

    return damage


def one_of(*ways: Damage) -> Damage:
    """The first edit chooses the way, the others are what it does."""
    return lambda content, changes: ways[changes[0][0] % len(ways)](content, changes[1:] or changes)
