"""Error of a reduced layer on what the layer really sees."""

from __future__ import annotations

import numpy as np
import torch

from ssmtool.lti.norms import difference, to_dense
from ssmtool.lti.systems import DiagonalSystem, System
from ssmtool.reductions._contract import Seen
from ssmtool_kernels.dense_scan import dense_scan
from ssmtool_kernels.diagonal_scan import diagonal_scan


def output_error(system: System, reduced: System, seen: Seen) -> float:
    """Root of the summed squares of y - y_r over those of y, outputs weighted as `seen` says, all systems together.

    Args:
        system, reduced: S systems with the same inputs and outputs.
        seen: their inputs (K, S, L, m), each sequence from rest.
    """
    lost, whole = (_energy(part, seen) for part in (difference(system, reduced), system))
    return float(np.sqrt(lost / max(whole, 1e-300)))


def _energy(system: System, seen: Seen) -> float:
    """Sum of y^T W y over sequences, systems and steps."""
    weight = None if seen.weight is None else torch.from_numpy(seen.weight)
    total = 0.0
    for sequence in seen.inputs:
        y = _run(system, torch.from_numpy(np.ascontiguousarray(sequence)))  # (S, L, p)
        total += float((y * (y if weight is None else y @ weight)).sum())
    return total


def _run(system: System, u: torch.Tensor) -> torch.Tensor:
    if isinstance(system, DiagonalSystem):
        parts = (np.exp(system.a), system.B, system.C)
        lam, B, C = (torch.from_numpy(np.asarray(x, dtype=np.complex128)) for x in parts)
        return diagonal_scan(lam, B, C, torch.from_numpy(system.D), u)[0]
    dense = to_dense(system)
    A, B, C, D = (torch.from_numpy(x) for x in (dense.A, dense.B, dense.C, dense.D))
    return dense_scan(A, B, C, D, u)[0]
