"""Which kind of device a computation will run on, found out without loading PyTorch where that is possible."""

from __future__ import annotations

import sys
from pathlib import Path

_DRIVERS = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")  # NVIDIA, the same in WSL, AMD


def device_kind(device: str) -> str:
    """ "cpu" or "cuda", as `factors.resolve_device` would say; "auto" on a machine without a GPU driver is "cpu".

    Raises:
        UsageError: there is no such device.
    """
    if device == "cpu" or (device == "auto" and _no_gpu()):
        return "cpu"
    from ssmtool.lti.factors import resolve_device

    return resolve_device(device).type


def _no_gpu() -> bool:
    """Whether there is certainly none; False where it is not known."""
    return sys.platform == "darwin" or (sys.platform == "linux" and not any(Path(d).exists() for d in _DRIVERS))
