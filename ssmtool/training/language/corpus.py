"""Python's own standard library source as bytes: text that is on every machine with Python."""

from __future__ import annotations

import hashlib
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "lib2to3", "encodings"}


@dataclass(frozen=True)
class Corpus:
    """Bytes of the two parts, split by file.

    Attributes:
        train, held_out: uint8, files joined with a zero byte between them.
        sha256: of both parts, to tell one Python release's library from another's.
        files: number of files in each.
    """

    train: np.ndarray
    held_out: np.ndarray
    sha256: str
    files: tuple[int, int]


def standard_library(root: str | Path | None = None) -> Corpus:
    """Every module of the standard library but its tests and tables; one file in ten, by its name's hash, is held out.

    Args:
        root: folder of the library; that of the running interpreter by default.
    """
    folder = Path(root or sysconfig.get_paths()["stdlib"])
    parts: dict[bool, list[bytes]] = {False: [], True: []}
    for path in sorted(folder.rglob("*.py")):
        name = path.relative_to(folder).as_posix()
        if LEFT_OUT & set(name.split("/")[:-1]):
            continue
        held_out = hashlib.sha256(name.encode()).digest()[0] % 10 == 0
        parts[held_out].append(path.read_bytes())
    joined = {held_out: b"\0".join(texts) for held_out, texts in parts.items()}
    digest = hashlib.sha256(joined[False] + joined[True]).hexdigest()
    train, held = (np.frombuffer(joined[part], dtype=np.uint8) for part in (False, True))
    return Corpus(train, held, digest, (len(parts[False]), len(parts[True])))


def spread(text: np.ndarray, sequences: int, length: int) -> np.ndarray:
    """`sequences` windows (sequences, length) at equal distances over `text`, first and last byte included."""
    starts = np.linspace(0, len(text) - length, sequences).astype(int)
    return np.stack([text[s : s + length] for s in starts])
