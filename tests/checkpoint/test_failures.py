"""Disks that fill up, processes that are killed, bits that flip: the destination is absent or complete, always."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssmtool.checkpoint import Rewrite, files, open_checkpoint
from ssmtool.errors import CheckpointError, OutputError, SsmtoolError

Fingerprint = Callable[[], dict[str, str]]


def rewrite_it(source: Path, destination: Path) -> None:
    """Replace, add and drop a tensor."""
    with Rewrite(open_checkpoint(source), destination) as rewrite:
        rewrite.put("layers.0.A", np.ones((2, 8)), "F32")
        rewrite.put("layers.0.D", np.ones(2), "F32")
        rewrite.drop("head.count")
        rewrite.config = {"n": 2} if rewrite.config else None
        rewrite.commit()


@pytest.fixture(params=["single", "sharded", "pickled"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """A source of each kind and a fitting destination."""
    source = request.getfixturevalue(request.param)
    return source, tmp_path / ("out" if source.is_dir() else "out.safetensors")


def published(source: Path, name: str) -> str:
    """How the result gets its name: a directory is renamed, a file linked, which never replaces another."""
    return name.replace("publish", "rename" if source.is_dir() else "link")


def failing(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, after: int, error: BaseException) -> None:
    """Let a function fail from its call number `after` on."""
    real, calls = getattr(module, name), []

    def fake(*args: Any) -> Any:
        calls.append(1)
        if len(calls) > after:
            raise error
        return real(*args)

    monkeypatch.setattr(module, name, fake)


@pytest.mark.parametrize("after", [0, 1, 2, 4, 6])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_write_fails(
    case: tuple[Path, Path], fingerprint: Fingerprint, monkeypatch: pytest.MonkeyPatch, after: int, code: int
) -> None:
    before = fingerprint()
    failing(monkeypatch, files, "write_all", after, OSError(code, os.strerror(code)))
    with pytest.raises(OutputError, match=f"{os.strerror(code)}. ") as caught:
        rewrite_it(*case)
    assert caught.value.where.startswith(str(case[1]))
    assert fingerprint() == before


@pytest.mark.parametrize(("module", "name", "after"), [(os, "fsync", 0), (os, "fsync", 1), (os, "publish", 0)])
def test_flush_or_rename_fails(
    case: tuple[Path, Path],
    fingerprint: Fingerprint,
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    name: str,
    after: int,
) -> None:
    before = fingerprint()
    failing(monkeypatch, module, published(case[0], name), after, OSError(errno.EIO, os.strerror(errno.EIO)))
    with pytest.raises(OutputError, match="Input/output error"):
        rewrite_it(*case)
    assert fingerprint() == before


def test_file_size_limit(case: tuple[Path, Path], fingerprint: Fingerprint) -> None:
    before = fingerprint()
    code = (
        "import resource, sys; from pathlib import Path; from ssmtool.errors import OutputError\n"
        "from ssmtool.checkpoint import Rewrite, open_checkpoint\n"
        "source = open_checkpoint(sys.argv[1]); resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))\n"
        "try: Rewrite(source, sys.argv[2]).commit()\n"
        "except OutputError as error: print(error.line())\n"
    )
    run = subprocess.run([sys.executable, "-c", code, *map(str, case)], check=True, capture_output=True, text=True)
    assert re.fullmatch(r"\S+: cannot be written: File too large. .*ulimit -f.*\n", run.stdout)
    assert fingerprint() == before


@pytest.mark.parametrize("after", [0, 1, 3, 5])
def test_interrupt_in_a_worker(
    case: tuple[Path, Path], fingerprint: Fingerprint, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    before = fingerprint()
    failing(monkeypatch, files, "write_all", after, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        rewrite_it(*case)
    assert fingerprint() == before


def test_interrupt_from_the_keyboard(
    case: tuple[Path, Path],
    fingerprint: Fingerprint,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    # A shell starts background jobs with interrupts ignored; what is tested is what happens to one that arrives.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, handler))
    before = fingerprint()
    real, sent = files.write_all, []

    def fake(file: Any, data: Any) -> None:
        if "result" in file.name and not sent:
            sent.append(os.kill(os.getpid(), signal.SIGINT))
        real(file, data)

    monkeypatch.setattr(files, "write_all", fake)
    with pytest.raises(KeyboardInterrupt):
        rewrite_it(*case)
    assert sent
    assert fingerprint() == before


def test_error_between_puts(case: tuple[Path, Path], fingerprint: Fingerprint) -> None:
    before = fingerprint()
    rewrite = Rewrite(open_checkpoint(case[0]), case[1])
    with pytest.raises(ZeroDivisionError), rewrite:  # noqa: PT012 - the block is what is tested
        rewrite.put("layers.0.A", np.ones(2), "F32")
        raise ZeroDivisionError
    with rewrite:
        rewrite.put("layers.0.A", np.ones(2), "F32")
    assert fingerprint() == before


def test_flipped_bit_is_found(
    case: tuple[Path, Path], fingerprint: Fingerprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fingerprint()
    real = files.write_all

    def flip(file: Any, data: Any) -> None:
        real(file, bytes(data[:-1]) + bytes([data[-1] ^ 1]) if file.name.endswith(".safetensors") else data)

    monkeypatch.setattr(files, "write_all", flip)
    with pytest.raises(OutputError, match="differs from what should have been written"):
        rewrite_it(*case)
    assert fingerprint() == before


def test_put_that_changed_on_disk_is_found(single: Path, tmp_path: Path, fingerprint: Fingerprint) -> None:
    before = fingerprint()
    with Rewrite(open_checkpoint(single), tmp_path / "out.safetensors") as rewrite:
        rewrite.put("layers.0.A", np.ones(2), "F32")
        (spilled,) = tmp_path.glob(".out.safetensors.ssmtool-*/put-*")
        spilled.write_bytes(b"\1" * 8)
        with pytest.raises(OutputError, match=r"'layers.0.A' differs from what was put"):
            rewrite.commit()
    assert fingerprint() == before


def test_source_cut_short_meanwhile(single: Path, tmp_path: Path) -> None:
    source = open_checkpoint(single)
    os.truncate(single, single.stat().st_size - 8)
    with Rewrite(source, tmp_path / "out.safetensors") as rewrite:
        rewrite.drop("layers.0.B")
        with pytest.raises(
            CheckpointError, match=r"changed while it was in use: it had 1032 bytes and has 1024. Run again"
        ):
            rewrite.commit()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_destination_appears_meanwhile(case: tuple[Path, Path], fingerprint: Fingerprint) -> None:
    with Rewrite(open_checkpoint(case[0]), case[1]) as rewrite:
        case[1].write_text("mine")
        before = fingerprint()
        with pytest.raises(OutputError, match="appeared while it was being written"):
            rewrite.commit()
    assert fingerprint() == before


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from ssmtool.checkpoint import files
sys.path.insert(0, str(Path(sys.argv[1]).parent))
from test_failures import rewrite_it

module, name, after, before = sys.argv[4], sys.argv[5], int(sys.argv[6]), sys.argv[7] == "before"
module = {"files": files, "os": os, "shutil": shutil}[module]
real, calls = getattr(module, name), []

def fake(*args, **options):
    calls.append(1)
    if before and len(calls) > after:
        os.kill(os.getpid(), signal.SIGKILL)
    result = real(*args, **options)
    if len(calls) > after:
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(module, name, fake)
rewrite_it(Path(sys.argv[2]), Path(sys.argv[3]))
"""


@pytest.mark.parametrize("kind", ["single", "sharded"])
@pytest.mark.parametrize(
    ("moment", "complete"),
    [
        ("files write_all 0 after", False),  # the first put is on disk
        ("files write_all 3 before", False),
        ("os fsync 0 before", False),
        ("os fsync 1 after", False),
        ("os publish 0 before", False),
        ("os publish 0 after", True),
        ("shutil rmtree 0 before", True),
    ],
)
def test_killed(
    request: pytest.FixtureRequest, tmp_path: Path, fingerprint: Fingerprint, kind: str, moment: str, complete: bool
) -> None:
    source = request.getfixturevalue(kind)
    name = "out" if source.is_dir() else "out.safetensors"
    reference, out = tmp_path / f"reference-{name}", tmp_path / name
    rewrite_it(source, reference)
    before = fingerprint()
    command = [sys.executable, "-c", KILLED, __file__, str(source), str(out), *published(source, moment).split()]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    for stale in tmp_path.glob(".*"):
        assert re.fullmatch(rf"\.{name}\.ssmtool-\d+-\w+", stale.name)
        shutil.rmtree(stale)
    after = fingerprint()
    assert {path: digest for path, digest in after.items() if path.split("/")[0] != name} == before
    assert out.exists() == complete
    if complete:
        made = {p.removeprefix(f"reference-{name}"): d for p, d in after.items() if p.startswith("reference-")}
        assert {p.removeprefix(name): d for p, d in after.items() if p.split("/")[0] == name} == made


def test_every_refusal_is_an_ssmtool_error() -> None:
    assert issubclass(OutputError, SsmtoolError)
    assert issubclass(CheckpointError, SsmtoolError)
