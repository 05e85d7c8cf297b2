"""Where a rewritten checkpoint may go, and the temporary place beside it where it is made."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from ssmtool.checkpoint.checkpoint import Checkpoint
from ssmtool.checkpoint.files import sync, writing
from ssmtool.checkpoint.scratch import clear_left, hold, release, scratch
from ssmtool.errors import OutputError


def resolve_destination(source: Checkpoint, destination: str | Path) -> Path:
    """The absolute place to write to.

    Args:
        source: the input.
        destination: as typed.

    Returns:
        absolute path whose parent exists and has no symbolic links left in it.

    Raises:
        OutputError: the destination is the input, lies inside it, exists, has no parent directory, cannot be written,
            or its suffix does not fit what will be written.
    """
    typed, where = Path(destination), str(destination)
    with writing(where):
        place, origin = Path(os.path.realpath(typed)), Path(os.path.realpath(source.path))
        exists = os.path.lexists(typed)
        same = place == origin or (exists and typed.exists() and os.path.samefile(typed, source.path))
    if same:
        raise OutputError("is the input itself", where=where, remedy="Choose another destination")
    if origin in place.parents:
        raise OutputError("lies inside the input", where=where, remedy="Choose a destination outside it")
    _refuse_existing(exists, where)
    if source.kind == "directory" and place.suffix == ".safetensors":
        raise OutputError(
            "the input is a directory, so the output is one", where=where, remedy="Leave out .safetensors"
        )
    if source.kind != "directory" and place.suffix != ".safetensors":
        reason = "pickles are written as safetensors" if source.pickled else "the output is a safetensors file"
        raise OutputError(reason, where=where, remedy=f"Name it {place.stem}.safetensors")
    _check_parent(place, where)
    return place


def resolve_new(destination: str | Path) -> Path:
    """The absolute place of a new safetensors file that is made from no checkpoint.

    Args:
        destination: as typed.

    Raises:
        OutputError: the destination exists, is not called .safetensors, has no parent directory or cannot be written.
    """
    typed, where = Path(destination), str(destination)
    with writing(where):
        place, exists = Path(os.path.realpath(typed)), os.path.lexists(typed)
    _refuse_existing(exists, where)
    if place.suffix != ".safetensors":
        raise OutputError(
            "the output is a safetensors file", where=where, remedy=f"Name it {place.stem or 'model'}.safetensors"
        )
    _check_parent(place, where)
    return place


def _refuse_existing(exists: bool, where: str) -> None:
    if exists:
        raise OutputError("exists already", where=where, remedy="Choose another destination or remove it first")


def _check_parent(place: Path, where: str) -> None:
    if not place.parent.is_dir():
        raise OutputError("parent directory does not exist", where=where, remedy=f"Create it: mkdir -p {place.parent}")
    if not os.access(place.parent, os.W_OK | os.X_OK):
        raise OutputError(
            "parent directory is not writable", where=where, remedy="Choose a destination this user may write to"
        )


class Stage:
    """A temporary directory beside the destination, on the same disk so that a rename moves its content at once.

    Named ``.<name>.ssmtool-<process id>-<random>``: one that a killed process left behind can be told and removed by
    hand. It is made on first use, and what killed processes left of the same destination goes then.

    Args:
        destination: absolute.

    Attributes:
        made: the directory, or None before the first use and after `discard`.
    """

    def __init__(self, destination: Path) -> None:
        self._destination = destination
        self.made: Path | None = None
        self._held: int | None = None

    @property
    def folder(self) -> Path:
        """The directory itself. Raises OutputError if it cannot be made."""
        if self.made is None:
            clear_left(self._destination)
            new = scratch(self._destination)
            with writing(self._destination.parent):
                new.mkdir(mode=0o700)
                self.made, self._held = new, hold(new)
        return self.made

    def publish(self, result: Path) -> None:
        """Move `result`, complete and synced, to the destination. Raises OutputError if that exists by now."""
        with writing(self._destination):
            try:
                if os.path.lexists(self._destination):
                    raise FileExistsError(errno.EEXIST, "exists")
                if result.is_dir():
                    os.rename(result, self._destination)
                else:
                    _link(result, self._destination)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                    raise
                raise OutputError(
                    "appeared while it was being written", where=str(self._destination), remedy="Write elsewhere"
                ) from None
        sync(self._destination.parent)

    def discard(self) -> None:
        """Remove the directory and all that is still in it; nothing to do if there is none."""
        if self.made is not None:
            shutil.rmtree(self.made, ignore_errors=True)
            self.made = None
            release(self._held)


def _link(result: Path, destination: Path) -> None:
    """Give a file a second name, which fails where there is a file of that name; a rename would replace that one."""
    try:
        os.link(result, destination)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EMLINK, errno.EACCES):
            raise
        os.rename(result, destination)  # a disk without second names
