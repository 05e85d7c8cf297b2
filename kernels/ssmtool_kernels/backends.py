"""Which implementation of an operation runs.

naive    step by step as defined, any dtype, differentiable: the truth
cpu      the operation's C source, compiled at first use (native.py)
triton   the operation's Triton kernel; on the CPU in Triton's interpreter only, for tests
torch    the best plain PyTorch form: what `auto` takes where neither of the two can run
auto     cpu for tensors on the CPU, triton for tensors on a CUDA device
"""

from __future__ import annotations

import functools
import importlib.util
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ssmtool_kernels import native
from ssmtool_kernels.constant import constant

BACKENDS = ("auto", "naive", "cpu", "triton", "torch")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


_preferred = "auto"


@contextmanager
def preferring(backend: str) -> Iterator[None]:
    """Within the block, "auto" means `backend`, for the whole process.

    Raises:
        BackendError: no such backend.
    """
    global _preferred
    if backend not in BACKENDS:
        raise BackendError(f"no backend {backend!r}; there are {', '.join(BACKENDS)}")
    before, _preferred = _preferred, backend
    try:
        yield
    finally:
        _preferred = before


class BackendError(RuntimeError):
    """The backend that was asked for cannot run here; says why and what can."""


def resolve(backend: str, tensor: Tensor) -> str:
    """The backend that runs: one of naive, cpu, triton, torch.

    Args:
        backend: one of `BACKENDS`.
        tensor: one of the operation's inputs.

    Raises:
        BackendError: no such backend, or it cannot run on the tensor's device here.
    """
    if backend not in BACKENDS:
        raise BackendError(f"no backend {backend!r}; there are {', '.join(BACKENDS)}")
    if backend == "auto":
        backend = _preferred
    if backend in ("naive", "torch"):
        return backend
    on_cpu = tensor.device.type == "cpu"
    if backend == "cpu":
        if not on_cpu:
            raise BackendError(f"backend cpu cannot read tensors on {tensor.device}")
        reason = native.missing()
        if reason:
            raise BackendError(f"backend cpu needs a C compiler: {reason}")
        return "cpu"
    if backend == "triton":
        reason = _no_triton(str(tensor.device))
        if reason:
            raise BackendError(f"backend triton: {reason}")
        return "triton"
    if on_cpu:
        reason = native.missing()
        if reason:
            _say_once(reason)
        return "torch" if reason else "cpu"
    return "torch" if _no_triton(str(tensor.device)) else "triton"


def interpreting() -> bool:
    """Whether Triton kernels run in its interpreter, on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "") == "1"


@constant
def _no_triton(device: str) -> str:
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    if device.startswith("cuda") or (device == "cpu" and interpreting()):
        return ""
    return f"tensors are on {device}, and Triton kernels need a CUDA device (or TRITON_INTERPRET=1, for tests)"


@functools.cache
def _say_once(reason: str) -> None:
    warnings.warn(f"no C compiler ({reason}): scans run in plain PyTorch, several times slower", stacklevel=4)
