"""The C sources of the CPU path: compiled at first use, cached, loaded with ctypes.

Every operation may have a `native.c` beside its Python files. It is compiled twice, with REAL as float and as double,
into libraries named after the content of source, flags, compiler and processor, so that a stale or foreign library is
never loaded. Never -ffast-math: loading such a library makes the whole process flush denormals to zero.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import secrets
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssmtool_kernels.constant import constant

HERE = Path(__file__).parent
FLAGS = (
    *("-std=c11", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"),
)
REALS = {torch.float32: "float", torch.complex64: "float", torch.float64: "double", torch.complex128: "double"}


@constant
def missing() -> str:
    """Why the C sources cannot be compiled and loaded here; "" if they can."""
    return _probe()


@functools.cache
def function(operation: str, name: str, dtype: torch.dtype) -> Any:
    """A function of an operation's `native.c` for one dtype.

    Calling it with tensors passes their addresses, with integers int64_t, with floats double, with None a null pointer.
    Tensors must be contiguous and alive until it returns. The GIL is released meanwhile.

    Args:
        operation: name of the folder.
        name: of the C function.
        dtype: of the tensors: float32, float64 or their complex counterparts.

    Raises:
        RuntimeError: no compiler, or one that fails.
    """
    raw = getattr(_library(operation, REALS[dtype]), name)
    raw.restype = None
    return lambda *arguments: raw(*map(_convert, arguments))


def threads() -> int:
    """How many threads a C function may use: as many as PyTorch."""
    return torch.get_num_threads()


def _convert(value: Any) -> Any:
    if isinstance(value, Tensor):
        if not value.is_contiguous():
            raise ValueError(f"a tensor of shape {tuple(value.shape)} is not contiguous")
        return ctypes.c_void_p(value.data_ptr())
    if value is None:
        return ctypes.c_void_p(None)
    if isinstance(value, bool | int):
        return ctypes.c_int64(value)
    return ctypes.c_double(value)


@functools.cache
def _library(operation: str, real: str) -> ctypes.CDLL:
    source = HERE / operation / "native.c"
    parts = [source.read_bytes(), *(path.read_bytes() for path in sorted((HERE / "include").glob("*.h")))]
    compiler, version = _compiler()
    key = hashlib.sha256(
        b"\0".join([*parts, repr((FLAGS, real, compiler, version, _processor())).encode()])
    ).hexdigest()[:24]
    directory = _cache()
    target = directory / f"{operation}-{real}-{key}.so"
    if target.exists():
        try:
            return ctypes.CDLL(str(target))
        except OSError:  # damaged, or made by a user who lets nobody else read it: made anew
            pass
    _compile(source, target, real, compiler)
    return ctypes.CDLL(str(target))


def _compile(source: Path, target: Path, real: str, compiler: tuple[str, ...]) -> None:
    """Compile into a temporary file beside the target and rename it, so that others never load half a library."""
    # The compiler makes the file, with the permissions of the user's umask: others may share the folder.
    scratch = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.so")
    command = [*compiler, *FLAGS, f"-DREAL={real}", f"-I{HERE / 'include'}", str(source), "-o", str(scratch), "-lm"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["?"]
            raise RuntimeError(
                f"{shlex.join(compiler)} cannot compile {source.name} of {source.parent.name}: {lines[0]}"
            )
        with open(scratch, "rb") as file:  # a library that a power cut left half on disk would end whoever loads it
            os.fsync(file.fileno())
        os.replace(scratch, target)
    finally:
        scratch.unlink(missing_ok=True)


@functools.cache
def _compiler() -> tuple[tuple[str, ...], str]:
    """The command and its version. Raises RuntimeError: none found."""
    wanted = shlex.split(os.environ["CC"]) if os.environ.get("CC") else None
    for command in [wanted] if wanted else [["cc"], ["gcc"], ["clang"]]:
        if shutil.which(command[0]):
            done = subprocess.run([*command, "--version"], capture_output=True, text=True)
            if done.returncode == 0:
                return tuple(command), done.stdout.splitlines()[0] if done.stdout else ""
    raise RuntimeError(f"{shlex.join(wanted)} of CC cannot be run" if wanted else "no cc, gcc or clang on the path")


@functools.cache
def _processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


@functools.cache
def _cache() -> Path:
    """A directory for libraries: SSMTOOL_CACHE, else the user's cache, else one of this process alone."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    directory = Path(os.environ.get("SSMTOOL_CACHE") or os.path.join(home, "ssmtool")) / "kernels"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if os.access(directory, os.W_OK | os.X_OK):
            return directory
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="ssmtool-kernels-"))


@functools.cache
def _probe() -> str:
    """Compile and load the smallest of the sources: the compiler may be there, and OpenMP or the headers not."""
    try:
        _library("varying_scan", "float")
    except (RuntimeError, OSError) as problem:
        return str(problem)
    return ""
