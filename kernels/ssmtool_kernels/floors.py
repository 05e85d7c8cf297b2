"""The least time a GPU needs: the largest of the times for memory, arithmetic, exponentials and tensor cores."""

from __future__ import annotations

from dataclasses import dataclass

from ssmtool_kernels.case import Cost


@dataclass(frozen=True)
class Peak:
    """What a GPU reaches in practice, about 0.9 of the data sheet (0.8 for tensor cores), per second.

    Attributes:
        bytes: memory traffic. fma: float32 instructions. exp: exponentials. tensor: bfloat16 operations.
    """

    bytes: float
    fma: float
    exp: float
    tensor: float


PEAKS = {
    "H200": Peak(4.3e12, 29.7e12, 3.7e12, 0.79e15),
    "H100": Peak(3.0e12, 29.7e12, 3.7e12, 0.79e15),
    "A100": Peak(1.8e12, 8.7e12, 2.1e12, 0.25e15),
}


def floor_seconds(cost: Cost, device_name: str) -> float | None:
    """Seconds, or None for a device whose peaks are not listed (every CPU among them)."""
    for name, peak in PEAKS.items():
        if name in device_name:
            return max(cost.bytes / peak.bytes, cost.fma / peak.fma, cost.exp / peak.exp, cost.tensor / peak.tensor)
    return None
