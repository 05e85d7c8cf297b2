"""Disks that are full or read-only, folders that vanish, links: one line, nothing half written, nothing lost."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.commands import COMMANDS
from tests.faults.runs import Outcome, Server, files

FULL = {"compress": 8192, "compress_directory": 8192, "refine": 8192, "train": 8192, "realize": 16384, "table": 16384}
"""Command -> bytes of the disk that are taken already: some have room for a beginning, some for nothing."""

READ_ONLY = ("compress", "compress_directory", "train", "table", "check")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of 16 KiB, mounted in memory; it takes root to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted: this takes root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def one_line(found: Outcome, *parts: str) -> None:
    assert found.code == 2, (found.code, found.out, found.err)
    assert found.err.count("\n") == 1
    assert found.err.startswith("ssmtool: error: ")
    assert "internal error" not in found.err
    for part in parts:
        assert part in found.err, found.err


def moved(name: str, folder: Path) -> list[str]:
    """The command with its results in another folder."""
    results = COMMANDS[name].results

    def place(word: str) -> str:
        result = next((result for result in results if word.endswith(result)), None)
        return word if result is None else word.replace(result, str(folder / result))

    return [place(word) for word in COMMANDS[name].args]


@pytest.mark.parametrize("name", FULL)
def test_a_full_disk(name: str, server: Server, work: Path, disk: Path) -> None:
    (disk / "other").write_bytes(bytes(FULL[name]))
    before, there = files(work), files(disk)
    one_line(server.run(moved(name, disk), work), "No space left on device")
    assert files(work) == before
    kept = COMMANDS[name].keeps
    assert {path: x for path, x in files(disk).items() if not path.startswith(kept or ("\0",))} == there
    assert not [path for path in disk.rglob("*") if ".ssmtool-" in path.name]


@pytest.mark.parametrize("name", ["compress", "compress_directory", "selective_projected", "train", "check"])
def test_a_file_larger_than_allowed(name: str, server: Server, work: Path) -> None:
    """Without root, a limit on the size of files fills the disk."""
    before = files(work)
    one_line(server.run(list(COMMANDS[name].args), work, largest=600), "File too large")
    kept = COMMANDS[name].keeps
    assert {path: x for path, x in files(work).items() if not path.startswith(kept or ("\0",))} == before


@pytest.mark.parametrize("name", READ_ONLY)
def test_a_read_only_folder(name: str, server: Server, work: Path, disk: Path) -> None:
    """Root may write everywhere, but not to a disk that is mounted read-only."""
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    before = files(work)
    found = server.run(moved(name, disk), work)
    one_line(found, str(disk))
    assert "not writable" in found.err or "Read-only file system" in found.err
    assert files(work) == before
    assert not list(disk.iterdir())


def test_a_cache_on_a_full_disk_is_no_cache(server: Server, work: Path, disk: Path) -> None:
    (disk / "fill").write_bytes(bytes(12_288))
    whole = server.run(["hsv", "s4d.safetensors", "--no-cache", "--json"], work)
    found = server.run(["hsv", "s4d.safetensors", "--cache", str(disk), "--json"], work)
    assert (found.code, found.err) == (0, "")
    assert found.out.split('"layers"')[1] == whole.out.split('"layers"')[1]


@pytest.mark.parametrize("name", ["compress", "compress_directory"])
def test_a_link_in_the_place_of_the_result_is_not_followed(name: str, server: Server, work: Path) -> None:
    (target,) = COMMANDS[name].results
    (work / target).symlink_to("elsewhere")
    before = files(work)
    one_line(server.run(list(COMMANDS[name].args), work), "exists already")
    assert files(work) == before
    assert not (work / "elsewhere").exists()


def test_a_linked_folder_is_followed(server: Server, work: Path) -> None:
    (work / "real").mkdir()
    (work / "link").symlink_to("real")
    assert server.run(moved("compress", Path("link")), work).code == 0
    assert [path.name for path in (work / "real").iterdir()] == ["out.safetensors"]


def test_a_linked_table_keeps_its_link(server: Server, work: Path) -> None:
    (work / "real.csv").write_text("old")
    (work / "hsv.csv").symlink_to("real.csv")
    assert server.run(list(COMMANDS["table"].args), work).code == 0
    assert (work / "hsv.csv").is_symlink()
    assert (work / "real.csv").read_text().startswith("layer,")


def test_a_table_is_never_written_into_a_pipe_or_a_device(server: Server, work: Path) -> None:
    os.mkfifo(work / "hsv.csv")
    one_line(server.run(list(COMMANDS["table"].args), work), "is not a regular file")
    assert (work / "hsv.csv").is_fifo()


@pytest.mark.parametrize("name", ["compress", "compress_directory", "refine", "train"])
def test_the_folder_of_the_result_is_removed_meanwhile(name: str, server: Server, work: Path) -> None:
    """It is made anew by nobody: where somebody took it away, nothing is written."""
    (work / "there").mkdir()
    before = files(work)
    args = moved(name, Path("there"))
    if name == "train":
        args += ["--epochs", "40"]
    started = server.start(args, work)
    while not list((work / "there").iterdir()):  # the first thing it writes
        if (found := _ended(started)) is not None:
            pytest.fail(f"nothing was written: {found}")
    shutil.rmtree(work / "there", ignore_errors=True)
    shutil.rmtree(work / "there", ignore_errors=True)
    found = started.wait()
    if (work / "there").exists():
        shutil.rmtree(work / "there")
    assert {**files(work), "there": ""} == before
    if found.code:  # else it was done before the folder went
        one_line(found)


def _ended(started) -> str | None:
    return None if Path(f"/proc/{started.process}").exists() else "ended"
