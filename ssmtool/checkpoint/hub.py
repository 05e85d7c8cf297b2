"""Models by their hub name, from the local Hugging Face cache only: nothing is downloaded."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ssmtool.checkpoint.files import read_small

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def cache_folder() -> Path:
    """The hub cache: HF_HUB_CACHE, else HF_HOME/hub, else huggingface/hub in XDG_CACHE_HOME or ~/.cache."""
    if folder := os.environ.get("HF_HUB_CACHE"):
        return Path(folder).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface" / "hub"


def is_name(target: str) -> bool:
    """Whether `target` could be a hub name such as ``org/name``."""
    return _NAME.fullmatch(target) is not None and ".." not in target


def snapshot(name: str) -> Path | None:
    """The cached snapshot of a model's main branch, else its only snapshot; None if there is none.

    Layout: ``models--org--name/refs/main`` holds the commit, ``snapshots/<commit>/`` the files.
    Raises CheckpointError if the cache cannot be read.
    """
    folder = cache_folder() / f"models--{name.replace('/', '--')}"
    reference = folder / "refs" / "main"
    if reference.is_file():
        commit = read_small(reference, limit=1000).decode("utf-8", "replace").strip()
        if re.fullmatch(r"\w+", commit) and (folder / "snapshots" / commit).is_dir():
            return folder / "snapshots" / commit
    snapshots = sorted((folder / "snapshots").glob("*")) if (folder / "snapshots").is_dir() else []
    return snapshots[0] if len(snapshots) == 1 else None
