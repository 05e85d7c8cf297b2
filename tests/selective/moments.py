"""Measured moments of a mixer, with the trace they come from."""

from __future__ import annotations

import torch

from ssmtool.selective.forward import Trace, forward
from ssmtool.selective.mixers import Mixer
from ssmtool.selective.statistics import Calibration, Statistics


def measured(mixer: Mixer, x: torch.Tensor, stride: int = 1) -> tuple[Calibration, Trace]:
    """Args: mixer with tensor fields; x (b, L, d)."""
    out, _, trace = forward(mixer, x)
    statistics = Statistics(mixer, stride=stride)
    statistics.update(trace, out)
    return statistics.result(), trace
