"""The scan of one selective layer alone, before and after: rounding against float64, time, share of the GPU's floor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssmtool.selective.forward import forward
from ssmtool.selective.mixers import DiagonalMixer, Mixer
from ssmtool_kernels.case import cases
from ssmtool_kernels.floors import floor_seconds
from ssmtool_kernels.measure import best, errors
from ssmtool_kernels.selective_scan import selective_scan
from ssmtool_kernels.ssd import ssd


@dataclass(frozen=True)
class ScanCheck:
    """One layer's scan on the inputs that the original's stream gives it.

    Attributes:
        operation: name of the scan.
        errors: relative deviation (L2) of output and last state from the naive scan in float64, before and after.
        seconds: of one scan, before and after, best of several.
        floor: share of the device's floor that is reached, before and after; None where the device is not known.
    """

    operation: str
    errors: tuple[float, float]
    seconds: tuple[float, float]
    floor: tuple[float, float] | None

    @property
    def speedup(self) -> float:
        """Of the reduced scan over the original's."""
        return self.seconds[0] / self.seconds[1] if self.seconds[1] > 0 else float("nan")


def check_scans(original: tuple[Mixer, ...], reduced: tuple[Mixer, ...], x: Tensor, backend: str) -> ScanCheck:
    """Run the scans of a layer's mixers alone.

    Args:
        original, reduced: mixers of torch tensors, on x's device and of its dtype; their times are added.
        x: (b, L, d) input of the layer.
        backend: of the scans.
    """
    before, after = ([_run(mixer, x, backend) for mixer in mixers] for mixers in (original, reduced))
    least = [sum(floor or 0.0 for *_, floor in runs) for runs in (before, after)]
    seconds = [sum(time for _, time, _ in runs) for runs in (before, after)]
    return ScanCheck(
        operation="selective_scan" if isinstance(original[0], DiagonalMixer) else "ssd",
        errors=(max(error for error, *_ in before), max(error for error, *_ in after)),
        seconds=(seconds[0], seconds[1]),
        floor=(least[0] / seconds[0], least[1] / seconds[1]) if least[0] else None,
    )


@torch.no_grad()
def _run(mixer: Mixer, x: Tensor, backend: str) -> tuple[float, float, float | None]:
    """Deviation from float64, seconds, and the floor in seconds."""
    trace = forward(mixer, x)[2]
    given = (trace.x, trace.dt, -mixer.a_log.exp(), trace.B, trace.C, mixer.d_skip)
    batch, length = trace.dt.shape[:2]
    if isinstance(mixer, DiagonalMixer):
        scan, projectors, case = selective_scan, (), cases()["selective_scan"]
        shape = {"B": batch, "L": length, "E": mixer.channels, "G": mixer.groups, "N": mixer.states}
    else:
        scan, case = ssd, cases()["ssd"]
        projectors = () if mixer.project_b is None else (mixer.project_b, mixer.project_c)
        shape = {"B": batch, "L": length, "H": mixer.heads, "P": mixer.channels // mixer.heads, "G": mixer.groups}
        shape["N"] = mixer.scanned

    def run(tensors: tuple[Tensor, ...], projectors: tuple[Tensor, ...], backend: str) -> tuple[Tensor, Tensor]:
        u, dt, A, B, C, D = tensors
        if projectors:
            B, C = (torch.einsum("grn,blgn->blgr", P, rows) for P, rows in zip(projectors, (B, C), strict=True))
        return scan(u, dt, A, B, C, D, backend=backend)

    exact = run(tuple(t.double() for t in given), tuple(p.double() for p in projectors), "naive")
    found = run(given, projectors, backend)
    seconds = best(lambda: run(given, projectors, backend), x.device)
    floor = None
    if x.device.type == "cuda":
        cost = case.cost({**dict.fromkeys(case.shape, 0), **shape}, x.element_size())
        floor = floor_seconds(cost, torch.cuda.get_device_name(x.device))
    return errors(found, exact).l2, seconds, floor
