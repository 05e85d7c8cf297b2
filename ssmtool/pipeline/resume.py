"""Where a refinement leaves what it needs to go on after a kill: one file beside the output, gone when that is written.

The file is replaced as a whole at every look at the held-out part, and read without executing anything.
"""

from __future__ import annotations

import hashlib
import inspect
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ssmtool.checkpoint.files import regular_size
from ssmtool.checkpoint.pickle_file import unpickled
from ssmtool.checkpoint.replacing import replacing
from ssmtool.errors import CheckpointError, UsageError


def code_digest(function: Callable[..., Any] | None) -> str:
    """Hash of the file a function is from; "" where there is none."""
    try:
        file = None if function is None else inspect.getsourcefile(function)
    except TypeError:  # a callable object
        file = None
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file and Path(file).is_file() else ""


class Resume:
    """The states of all fits of one refinement.

    Args:
        path: of the file; it need not exist.
        settings: what the result depends on; a file left by others is refused.

    Raises:
        UsageError: the file was left by a run with other settings, or cannot be read.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path, self.settings = path, {name: str(value) for name, value in settings.items()}
        self.states: dict[str, dict[str, Any]] = {}
        if not path.exists():
            return
        regular_size(path)
        before, states = _parts(path)
        for name, value in self.settings.items():
            if before.get(name) != value:
                raise UsageError(
                    f"an interrupted refinement of this output had {name} = {before.get(name)}, now it is {value}",
                    where=str(path),
                    remedy="Run it with the same settings to go on, or delete the file to start afresh",
                )
        self.states = states

    def memory(self, name: str) -> FitMemory:
        """Of the fit called `name`."""
        return FitMemory(self, name)

    def write(self) -> None:
        """Replace the file. Raises OutputError."""
        content = io.BytesIO()  # torch.save itself does not say why a disk takes no more
        torch.save({"settings": self.settings, "states": self.states}, content)
        with replacing(self.path) as file:
            file.write(content.getbuffer())

    def forget(self) -> None:
        """Remove the file: the result is written."""
        self.path.unlink(missing_ok=True)


def _parts(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Settings and states in a file. Raises UsageError for what is none of ours."""
    try:
        found = unpickled(path)
    except CheckpointError as error:
        found = error
    parts = (found.get("settings"), found.get("states")) if isinstance(found, dict) else (None, None)
    if not all(isinstance(part, dict) for part in parts) or not all(isinstance(x, dict) for x in parts[1].values()):
        reason = found.what if isinstance(found, CheckpointError) else "holds something else"
        raise UsageError(
            f"what an interrupted refinement left cannot be read: it {reason}",
            where=str(path),
            remedy="Delete the file to start afresh",
        )
    return parts


class FitMemory:
    """`ssmtool.fitting.Memory` of one fit."""

    def __init__(self, resume: Resume, name: str) -> None:
        self.resume, self.name, self.where = resume, name, str(resume.path)

    def load(self) -> dict[str, Any] | None:
        return self.resume.states.get(self.name)

    def save(self, state: dict[str, Any]) -> None:
        self.resume.states[self.name] = state
        self.resume.write()
