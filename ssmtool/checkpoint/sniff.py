"""What a file is by its first bytes, so that a wrong name or a failed download is called by its name."""

from __future__ import annotations

import struct
from pathlib import Path

from ssmtool.checkpoint.files import blocks, regular_size

_DOWNLOAD = "Download the weights again"
_FOREIGN = {
    b"version https://git-lfs": ("is a git-lfs pointer, not the weights", "Fetch the weights with `git lfs pull`"),
    b"<!doctype html": ("is an HTML page, not weights", f"{_DOWNLOAD}; the link gave a web page"),
    b"<html": ("is an HTML page, not weights", f"{_DOWNLOAD}; the link gave a web page"),
    b"<?xml": ("is an XML document, not weights", f"{_DOWNLOAD}; the link gave an error page"),
    b"GGUF": ("is a GGUF file", "Use the safetensors or PyTorch checkpoint it was made from"),
    b"\x89HDF": ("is an HDF5 file", "Save the weights as safetensors first"),
    b"\x1f\x8b": ("is gzip-compressed", "Unpack it first"),
    b"\x93NUMPY": ("is a NumPy array file", "Save the weights as safetensors first"),
}


def is_safetensors(path: Path) -> bool:
    """Whether the file starts like safetensors: a header length that fits into the file, then ``{``."""
    head = _head(path)
    return len(head) > 8 and head[8:9] == b"{" and 8 + struct.unpack("<Q", head[:8])[0] <= regular_size(path)


def is_zip(path: Path) -> bool:
    """Whether the file starts like a zip archive, the container of torch.save since PyTorch 1.6."""
    return _head(path).startswith(b"PK\x03\x04")


def is_pickle(path: Path) -> bool:
    """Whether the file starts like something torch.save writes: a zip archive, or a pickle of protocol 2 and above."""
    head = _head(path)
    return is_zip(path) or (head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"))


def foreign(path: Path) -> tuple[str, str] | None:
    """What is wrong and what to do, if the file is recognisably something else than weights; None otherwise."""
    head = _head(path)
    if not head:
        return "is empty", _DOWNLOAD
    for start, verdict in _FOREIGN.items():
        if head.lstrip().lower().startswith(start.lower()):
            return verdict
    return None


def _head(path: Path) -> bytes:
    return b"".join(blocks(path, 0, min(64, regular_size(path))))
