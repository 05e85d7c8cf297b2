"""What reaches standard output, and files that are written on request."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path

from ssmtool.errors import UsageError


def emit(text: str) -> None:
    """Write a result to standard output, with a newline at its end, and all of it now."""
    if text:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        sys.stdout.flush()


def checked_file(path: Path | None, option: str, suffixes: Collection[str]) -> Path | None:
    """A file to write on request; looked at before the work starts, so that no work is lost to a typing error.

    Only the suffixes of the option are taken: no checkpoint can be overwritten by mistake.

    Raises:
        UsageError: another suffix, a directory, or a parent that does not exist.
    """
    if path is None:
        return None
    where = f"{option} {path}"
    if path.suffix.lower() not in suffixes:
        raise UsageError(
            f"does not end in {' or '.join(suffixes)}", where=where, remedy="The suffix chooses the format"
        )
    if path.is_dir():
        raise UsageError("is a directory", where=where)
    if not path.parent.is_dir():
        raise UsageError("parent directory does not exist", where=where, remedy=f"Create it: mkdir -p {path.parent}")
    return path


def save(path: Path, text: str) -> None:
    """Write a text file, or leave what was there. Raises OutputError."""
    from ssmtool.checkpoint.replacing import replacing

    with replacing(path) as file:
        file.write(text.encode("utf-8"))
