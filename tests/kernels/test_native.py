"""Compiling the C sources: cached, atomic, and told in one line where it cannot be done."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ssmtool_kernels import native

SCAN = """
import torch, warnings
from ssmtool_kernels.varying_scan import varying_scan
warnings.simplefilter("always")
a = torch.full((1, 3, 2), 0.5)
v = torch.ones(1, 3, 2)
print(varying_scan(a, v)[1].tolist())
"""


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths, **environment},
    )


def test_without_a_compiler_scans_run_in_pytorch_and_say_so_once(tmp_path: Path) -> None:
    done = python(SCAN + SCAN, CC="no-such-compiler", SSMTOOL_CACHE=str(tmp_path))
    assert done.stdout == "[[1.75, 1.75]]\n" * 2
    assert done.stderr.count("no C compiler") == 1
    assert "no-such-compiler of CC cannot be run" in done.stderr


def test_backend_cpu_without_a_compiler_is_an_error_that_says_why(tmp_path: Path) -> None:
    done = python(SCAN.replace("(a, v)", '(a, v, backend="cpu")'), CC="no-such-compiler", SSMTOOL_CACHE=str(tmp_path))
    assert done.returncode == 1
    assert "BackendError: backend cpu needs a C compiler: no-such-compiler" in done.stderr.strip().splitlines()[-1]


def test_a_compiler_that_fails_is_quoted(tmp_path: Path) -> None:
    broken = tmp_path / "cc"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "x.c:1: error: out of ideas" >&2\nexit 1\n')
    broken.chmod(0o755)
    done = python(SCAN, CC=str(broken), SSMTOOL_CACHE=str(tmp_path))
    assert done.stdout == "[[1.75, 1.75]]\n"
    assert "error: out of ideas" in done.stderr
    assert not list((tmp_path / "kernels").iterdir())


@pytest.mark.skipif(bool(native.missing()), reason="no C compiler")
def test_libraries_are_compiled_once_and_kept(tmp_path: Path) -> None:
    assert python(SCAN, SSMTOOL_CACHE=str(tmp_path)).stderr == ""
    libraries = {path: path.stat().st_mtime_ns for path in (tmp_path / "kernels").iterdir()}
    assert libraries
    assert all(path.suffix == ".so" for path in libraries)
    python(SCAN, SSMTOOL_CACHE=str(tmp_path))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "kernels").iterdir()} == libraries


@pytest.mark.skipif(bool(native.missing()), reason="no C compiler")
def test_a_library_that_cannot_be_loaded_is_made_anew(tmp_path: Path) -> None:
    """And has the permissions of the user's umask, so that others who share the folder may load it."""
    assert python(SCAN, SSMTOOL_CACHE=str(tmp_path)).stderr == ""
    (library,) = (tmp_path / "kernels").iterdir()
    for content in (b"", b"no library"):
        library.unlink()
        library.write_bytes(content)
        assert python(SCAN, SSMTOOL_CACHE=str(tmp_path)).stdout == "[[1.75, 1.75]]\n"
        assert [path.name for path in (tmp_path / "kernels").iterdir()] == [library.name]
        umask = os.umask(0)
        os.umask(umask)
        assert library.stat().st_mode & 0o666 == 0o666 & ~umask


@pytest.mark.skipif(bool(native.missing()), reason="no C compiler")
def test_several_processes_may_compile_at_once(tmp_path: Path) -> None:
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONPATH": paths, "SSMTOOL_CACHE": str(tmp_path)}
    started = [
        subprocess.Popen([sys.executable, "-c", SCAN], stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(3)
    ]
    assert [process.communicate()[0] for process in started] == ["[[1.75, 1.75]]\n"] * 3
    assert all(path.suffix == ".so" for path in (tmp_path / "kernels").iterdir())


@pytest.mark.skipif(bool(native.missing()), reason="no C compiler")
def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = python(SCAN, SSMTOOL_CACHE=str(tmp_path / "file"))
    assert done.stdout == "[[1.75, 1.75]]\n"
    assert done.stderr == ""


@pytest.mark.skipif(bool(native.missing()), reason="no C compiler")
def test_denormal_numbers_survive_the_loading_of_a_library() -> None:
    native.function("varying_scan", "forward", torch.float32)
    tiny = torch.tensor([1e-310], dtype=torch.float64)
    assert float(tiny * 0.5) > 0


def test_strided_tensors_are_refused() -> None:
    with pytest.raises(ValueError, match="not contiguous"):
        native._convert(torch.zeros(4, 4).T)
