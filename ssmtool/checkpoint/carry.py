"""The files of a directory beside its weights: which go along, and which would contradict the new weights."""

from __future__ import annotations

import os
from pathlib import Path

from ssmtool.checkpoint.checkpoint import Checkpoint
from ssmtool.checkpoint.files import reading
from ssmtool.checkpoint.locate import WEIGHTS, is_weights


def companions(source: Checkpoint) -> tuple[list[str], list[str]]:
    """Files of a directory that are not its weights or their index.

    Left out, and told: weights in other formats or unread variants and their indices (they would hold the old numbers),
    training state in weight formats, links to directories or to nothing, and what is not a regular file. Hidden files
    and directories are left out silently.

    Returns:
        names to copy and names left out, relative to the directory, with ``/``, sorted. Both empty for a single file.

    Raises:
        CheckpointError: a directory that cannot be listed.
    """
    if source.kind != "directory":
        return [], []
    read = {file.relative_to(source.path).as_posix() for file in source.files()}
    copied, skipped = [], []
    with reading(source.path):
        for parent, folders, names in os.walk(source.path, onerror=_raise):
            here = Path(parent)
            linked = [name for name in folders if (here / name).is_symlink()]
            folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in linked)
            for name in sorted(names + linked):
                relative = (here / name).relative_to(source.path).as_posix()
                if name.startswith(".") or relative in read:
                    continue
                stale = is_weights(name) or _is_index(name)
                (skipped if stale or not (here / name).is_file() else copied).append(relative)
    return sorted(copied), sorted(skipped)


def _is_index(name: str) -> bool:
    return name.endswith(".index.json") and Path(name.removesuffix(".index.json")).suffix in WEIGHTS


def _raise(error: OSError) -> None:
    raise error
