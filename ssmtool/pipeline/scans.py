"""One layer run on inputs: scan and convolution in float32, and the float64 definition they are held against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from ssmtool.errors import UsageError
from ssmtool.lti.impulse import impulse_response
from ssmtool.lti.systems import DiagonalSystem, System
from ssmtool_kernels.backends import BackendError, resolve
from ssmtool_kernels.case import cases
from ssmtool_kernels.convolution import diagonal_convolution, kernel_convolution
from ssmtool_kernels.dense_scan import dense_scan
from ssmtool_kernels.diagonal_scan import diagonal_scan
from ssmtool_kernels.floors import floor_seconds
from ssmtool_kernels.measure import best

_SCAN_BYTES = 1 << 28  # states of one batch of systems kept at a time


def resolved(backend: str, device: torch.device) -> str:
    """The backend that will run on a device. Raises UsageError: it cannot."""
    try:
        return resolve(backend, torch.zeros(1, device=device))
    except BackendError as reason:
        raise UsageError(str(reason)) from reason


def operation_of(system: System) -> str:
    """The scan that runs a system."""
    return "diagonal_scan" if isinstance(system, DiagonalSystem) else "dense_scan"


def floor_share(system: System, steps: int, seconds: float, device: torch.device) -> float | None:
    """Share of the device's floor that a scan of this time reaches; None where the device or the scan has none."""
    if not isinstance(system, DiagonalSystem) or device.type != "cuda":
        return None
    shape = {"B": 1, "H": system.systems, "L": steps, "N": system.slots, "M": system.inputs, "P": system.outputs}
    least = floor_seconds(cases()["diagonal_scan"].cost(shape, 4), torch.cuda.get_device_name(device))
    return None if least is None else least / seconds


Operation = Callable[[torch.Tensor], torch.Tensor]


class LayerRun:
    """Scan and convolution of one layer, for any number of inputs: what does not depend on them is computed once.

    Args:
        system: S systems.
        steps: length of the inputs.
        device, backend: what runs the scans.
    """

    def __init__(self, system: System, steps: int, device: torch.device, backend: str) -> None:
        self.device = device
        self.pieces = [(p, _operations(system, p, steps, device, backend)) for p in _batches(system, steps)]

    def __call__(self, u: np.ndarray, timed: bool):
        """Of one input (S, L, m): scan output (S, L, p), rounding (S,), deviations of scan and convolution, seconds."""
        outputs, noise, deviations, seconds = [], [], np.zeros(2), 0.0
        for piece, (exact_scan, fast_scan, convolution) in self.pieces:
            drive = torch.from_numpy(np.array(u[piece])).to(self.device)
            exact = exact_scan(drive)
            single = drive.float().contiguous()
            y = fast_scan(single)
            seconds += best(lambda f=fast_scan, v=single: f(v), self.device) if timed else 0.0
            z = convolution(single)
            size = exact.square().sum((1, 2)).sqrt()
            rounding = (y.double() - exact).square().sum((1, 2)).sqrt()
            other = (z.double() - exact).square().sum((1, 2)).sqrt()
            safe = torch.where(size > 0, size, torch.ones_like(size))
            deviations = np.maximum(deviations, [float((rounding / safe).max()), float((other / safe).max())])
            outputs.append(y.double().cpu().numpy())
            noise.append(rounding.cpu().numpy())
        return np.concatenate(outputs), np.concatenate(noise), deviations, seconds


def scan_seconds(system: System, u: np.ndarray, device: torch.device, backend: str) -> float:
    """The time that a `LayerRun` measures, and nothing else."""
    total = 0.0
    for piece in _batches(system, u.shape[1]):
        single = torch.from_numpy(np.array(u[piece])).to(device).float().contiguous()
        scan = _scan(system, piece, device, backend)
        scan(single)  # what it loads and compiles is not its time
        total += best(lambda f=scan, v=single: f(v), device)
    return total


def _batches(system: System, steps: int) -> list[slice]:
    """Systems whose states fit in memory at a time."""
    width = system.slots if isinstance(system, DiagonalSystem) else system.order
    batch = max(1, _SCAN_BYTES // (steps * max(width, 1) * 16))
    return [slice(start, start + batch) for start in range(0, system.systems, batch)]


def _scan(system: System, piece: slice, device: torch.device, backend: str) -> Operation:
    """The scan in float32 of a batch of systems."""
    D = torch.from_numpy(system.D[piece]).to(device).float()
    if isinstance(system, DiagonalSystem):
        a, B, C = (torch.from_numpy(x[piece].astype(np.complex128)).to(device) for x in (system.a, system.B, system.C))
        lam, B, C = (x.to(torch.complex64) for x in (torch.exp(a), B, C))
        return lambda u: diagonal_scan(lam, B, C, D, u, backend=backend)[0]
    A, B, C = (torch.from_numpy(x[piece]).to(device).float() for x in (system.A, system.B, system.C))
    return lambda u: dense_scan(A, B, C, D, u)[0]


def _operations(
    system: System, piece: slice, steps: int, device: torch.device, backend: str
) -> tuple[Operation, Operation, Operation]:
    """Naive scan in float64, scan and convolution in float32 of a batch of systems, each u (s, L, m) -> y.

    Dense systems have a naive scan only.
    """
    D, fast = torch.from_numpy(system.D[piece]).to(device), _scan(system, piece, device, backend)
    if isinstance(system, DiagonalSystem):
        a, B, C = (torch.from_numpy(x[piece].astype(np.complex128)).to(device) for x in (system.a, system.B, system.C))
        lam = torch.exp(a)

        def exact(u: torch.Tensor) -> torch.Tensor:
            return diagonal_scan(lam, B, C, D, u, backend="naive")[0]

        if system.inputs * system.outputs > system.slots:

            def convolve(u: torch.Tensor) -> torch.Tensor:
                logs, inputs, outputs = (x.to(torch.complex64) for x in (a, B, C))
                return diagonal_convolution(logs, inputs, outputs, D.float(), u)

            return exact, fast, convolve
    else:
        A, B, C = (torch.from_numpy(x[piece]).to(device) for x in (system.A, system.B, system.C))

        def exact(u: torch.Tensor) -> torch.Tensor:
            return dense_scan(A, B, C, D, u)[0]

    if isinstance(system, DiagonalSystem):
        part = replace(system, a=system.a[piece], B=system.B[piece], C=system.C[piece], D=system.D[piece])
    else:
        part = replace(system, A=system.A[piece], B=system.B[piece], C=system.C[piece], D=system.D[piece])
    kernel = torch.from_numpy(impulse_response(part, steps)).to(device).float()
    return exact, fast, lambda u: kernel_convolution(kernel, u)
