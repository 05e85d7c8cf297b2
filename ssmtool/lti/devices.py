"""Which device a computation will run on, found out without loading PyTorch where that is possible."""

from __future__ import annotations

import sys
from pathlib import Path

_DRIVERS = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")  # NVIDIA, the same in WSL, AMD


def device_name(device: str) -> str:
    """ "cpu", "cuda", "cuda:1" and so on, as `factors.resolve_device` has it; without a GPU driver "auto" is "cpu".

    Raises:
        UsageError: there is no such device.
    """
    if device == "cpu" or (device == "auto" and _no_gpu()):
        return "cpu"
    from ssmtool.lti.factors import resolve_device

    return str(resolve_device(device))


def device_kind(name: str) -> str:
    """ "cpu" or "cuda": results are the same on every device of a kind."""
    return name.partition(":")[0]


def _no_gpu() -> bool:
    """Whether there is certainly none; False where it is not known."""
    return sys.platform == "darwin" or (sys.platform == "linux" and not any(Path(d).exists() for d in _DRIVERS))
