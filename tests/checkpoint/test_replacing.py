"""Files replaced whole or not at all, and what killed processes leave of that."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ssmtool.checkpoint.replacing import replacing
from ssmtool.checkpoint.scratch import clear_left, hold, release, scratch
from ssmtool.errors import OutputError


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("old")
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.csv"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ZeroDivisionError(), KeyboardInterrupt()])
def test_an_error_leaves_what_was_there(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.csv"
    path.write_text("old")
    with pytest.raises(OutputError if isinstance(error, OSError) else type(error)), replacing(path) as file:  # noqa: PT012
        file.write(b"ne")
        raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.csv"]


def left(folder: Path, process: int, name: str = "a") -> Path:
    """What a process left of writing `name`."""
    path = folder / f".{name}.ssmtool-{process}-0123abcd"
    path.mkdir()
    (path / "put-1").write_bytes(b"x")
    return path


@pytest.fixture
def dead() -> int:
    """The number of a process that is no more."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_what_a_dead_process_left_is_cleared(tmp_path: Path, dead: int) -> None:
    folder, file = left(tmp_path, dead), tmp_path / f".a.ssmtool-{dead}-ffff"
    file.write_bytes(b"x")
    clear_left(tmp_path / "a")
    assert not folder.exists()
    assert not file.exists()


def test_what_others_may_need_stays(tmp_path: Path, dead: int) -> None:
    """Of a process that lives, of one on another machine, which holds it, and of other names."""
    living, other, name = left(tmp_path, os.getpid()), left(tmp_path, dead), left(tmp_path, dead, "a.b")
    (tmp_path / f".a.ssmtool-{dead}-link").symlink_to(tmp_path)
    (tmp_path / ".a.ssmtool-x-1").write_text("mine")
    handle = hold(other)
    clear_left(tmp_path / "a")
    release(handle)
    assert all(path.exists() for path in (living, other, name))
    assert len(os.listdir(tmp_path)) == 5
    clear_left(tmp_path / "a")
    assert not other.exists(), "let go of, it is cleared"


def test_only_one_holds_a_folder(tmp_path: Path) -> None:
    handle = hold(tmp_path)
    with pytest.raises(BlockingIOError):
        hold(tmp_path)
    release(handle)
    release(hold(tmp_path))


def test_names_differ_each_time(tmp_path: Path) -> None:
    assert scratch(tmp_path / "a") != scratch(tmp_path / "a")
