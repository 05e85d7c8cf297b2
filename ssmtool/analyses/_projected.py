"""Mamba-2 layers that run on fewer states than they compute: B and C as the scan reads them."""

from __future__ import annotations

from dataclasses import replace

import torch

from ssmtool.selective.forward import Trace
from ssmtool.selective.mixers import DiagonalMixer, Mixer


def states_run(mixer: Mixer) -> int:
    """States the scan carries: r of a projected mixer, else N."""
    if isinstance(mixer, DiagonalMixer) or mixer.project_b is None:
        return mixer.states
    return mixer.project_b.shape[1]


def as_read(mixer: Mixer, trace: Trace) -> tuple[Mixer, Trace]:
    """The trace with B and C after the projection, and a mixer of that many states for the scan alone.

    What is not projected is returned as it is. The mixer has the right sizes, decay and output, and no meaningful rows
    for B and C: it describes the scan, and cannot be run on hidden states.
    """
    if isinstance(mixer, DiagonalMixer) or mixer.project_b is None:
        return mixer, trace
    B = torch.einsum("grn,blgn->blgr", mixer.project_b.to(trace.B), trace.B)
    C = torch.einsum("grn,blgn->blgr", mixer.project_c.to(trace.C), trace.C)
    rows = mixer.groups * mixer.project_b.shape[1]
    scan = replace(mixer, in_b=mixer.in_b[:rows], in_c=mixer.in_c[:rows], project_b=None, project_c=None)
    return scan, replace(trace, B=B, C=C)
