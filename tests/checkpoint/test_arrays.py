"""NumPy's files: what is refused, and that nothing is allocated for what they only claim."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ssmtool.checkpoint import arrays
from ssmtool.checkpoint.arrays import archive_names, read_array, read_member
from ssmtool.errors import CheckpointError

HOW = {"what": "numbers", "remedy": "Give numbers"}


def npy(header: str, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    length = struct.pack("<H" if version == (1, 0) else "<I", len(header))
    return b"\x93NUMPY" + bytes(version) + length + header.encode() + data


def header(shape: str = "(2, 3)", descr: str = "'<f8'", fortran: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n"


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f8", ">f4", "<c16", "<i2", "|b1", "<U3"])
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (2, 3, 4)])
def test_what_numpy_writes_is_read(tmp_path: Path, order: str, dtype: str, shape: tuple[int, ...]) -> None:
    array = np.asarray(np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype), order=order)  # type: ignore[call-overload]
    np.save(tmp_path / "a.npy", array)
    found = read_array(tmp_path / "a.npy", **HOW)
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert np.array_equal(found, array)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cannot be read as numbers"),
        (b"no array", "magic string"),
        (b"PK\x03\x04 and so on", "magic string"),
        (npy(header(), bytes(40)), "claims 48 bytes of data, and there are 40"),
        (npy(header(), bytes(56)), "claims 48 bytes of data, and there are 56"),
        (npy(header("(1000000, 1000000)"), bytes(48)), "claims 8000000000000 bytes"),
        (npy(header("(-1, -6)"), bytes(48)), "claims the shape"),
        (npy(header("(9999999999999999999999,)"), bytes(48)), "claims"),
        (npy(header("(0, 9999999999999999999999)")), "cannot be read"),
        (npy(header(descr="'|O'"), bytes(48)), "Python objects"),
        (npy(header(descr="[('a', '|O')]"), bytes(16)), "Python objects"),
        (npy(header("(2, 3"), bytes(48)), "cannot be read"),
        (npy(header("__import__('os').getpid()"), bytes(48)), "cannot be read"),
        (npy("(" * 5000, bytes(48)), "cannot be read"),
        (npy("{'descr': '<f8', [1]: 2}", bytes(48)), "cannot be read"),
        (npy("'" * 3 + "\n", bytes(48)), "cannot be read"),
        (npy(header(), bytes(48), version=(7, 0)), "cannot be read"),
        (npy("x" * 50_000, bytes(48)), "cannot be read"),
    ],
)
def test_what_is_refused_takes_no_memory(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=words) as caught:
            read_array(path, **HOW)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert caught.value.line().startswith(f"{path}: cannot be read as numbers: ")
    assert caught.value.line().endswith(". Give numbers")


def test_pipes_and_folders_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npy")
    for name in ("pipe.npy", "."):
        with pytest.raises(CheckpointError, match="not a regular file"):
            read_array(tmp_path / name, **HOW)
    with pytest.raises(CheckpointError, match="No such file"):
        read_array(tmp_path / "none.npy", **HOW)


def archive(path: Path, members: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", kind) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def test_archives_are_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", h=np.eye(3), x=np.arange(4))
    assert archive_names(tmp_path / "a.npz", **HOW) == ["h", "x"]
    assert np.array_equal(read_member(tmp_path / "a.npz", "h", **HOW), np.eye(3))


def test_an_archive_that_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deflate packs zeros a thousand to one: 2 MB would become 2 GB."""
    monkeypatch.setattr(arrays, "PACKED", 1 << 20)
    path = archive(tmp_path / "a.npz", {"h.npy": bytes(3 << 20)})
    assert path.stat().st_size < 1 << 14
    with pytest.raises(CheckpointError, match=r"unpacks to 3145728 bytes"):
        archive_names(path, **HOW)


@pytest.mark.parametrize("damage", ["member", "deflate", "method", "directory"])
def test_damaged_archives_are_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    plain = io.BytesIO()
    np.save(plain, np.eye(3))
    path = archive(tmp_path / "a.npz", {"h.npy": b"no array" if damage == "member" else plain.getvalue()})
    content = bytearray(path.read_bytes())
    if damage == "deflate":
        content[45:60] = b"\xff" * 15
    elif damage == "method":
        content[8:10] = content[content.rindex(b"PK\x01\x02") + 10 :][:2] = b"\x63\x00"
        content[content.rindex(b"PK\x01\x02") + 10] = 0x63
    elif damage == "directory":
        content[content.rindex(b"PK\x01\x02")] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read as numbers") as caught:  # noqa: PT012 - either may refuse
        for name in archive_names(path, **HOW):
            read_member(path, name, **HOW)
    assert caught.value.line().isprintable()
