"""How states are shared out among layers and channels: what was asked, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ssmtool.errors import CalibrationError, UsageError

KINDS = ("uniform", "bound", "sensitivity", "best")


@dataclass(frozen=True)
class AllocateOptions:
    """How states are to be shared out.

    Attributes:
        kind: one of KINDS.
        per_channel: ranks of its own for every system of a layer, not only for every layer.
        labels: (K,) or (K, L) int, classes of the calibration inputs; None where there are none.
        outputs: what the model's outputs are: "classes", compared by divergence, or "values", by mean square.
    """

    kind: str = "best"
    per_channel: bool = False
    labels: np.ndarray | None = None
    outputs: Literal["classes", "values"] = "values"


@dataclass(frozen=True)
class Candidate:
    """One way to share out the states, and what it scores on the calibration inputs that judge.

    Attributes:
        kind: "uniform", "bound" or "sensitivity".
        per_channel: whether systems of one layer differ.
        ranks: per layer (S,) int64.
        states: their sum.
        bytes_after: tensor bytes of the whole checkpoint as it would be stored.
        loss: cross-entropy in nats with labels, else divergence in nats or mean square over variance from the
            original's outputs; None where nothing was measured.
        accuracy: share of right classes with labels, else of the original's largest entry; None for values.
        allowed: whether it may win: it was asked for, or takes no more bytes than uniform.
    """

    kind: str
    per_channel: bool
    ranks: tuple[np.ndarray, ...]
    states: int
    bytes_after: int
    loss: float | None = None
    accuracy: float | None = None
    allowed: bool = True

    @property
    def name(self) -> str:
        return self.kind + (", channels" if self.per_channel else "")


@dataclass(frozen=True)
class Allocation:
    """How the states were shared out.

    Attributes:
        asked: what was asked for.
        layers: names.
        total: states there were to share out.
        kept: the candidate that was carried out.
        candidates: all that were looked at, uniform first where it was measured.
        measure: what `loss` is: "cross-entropy", "divergence", "mean square", or "" if nothing was measured.
        judged: sequences that judged.
    """

    asked: str
    layers: tuple[str, ...]
    total: int
    kept: Candidate
    candidates: tuple[Candidate, ...]
    measure: str = ""
    judged: int = 0

    def record(self) -> dict[str, Any]:
        """For the new checkpoint's metadata."""
        return {
            "asked": self.asked,
            "kept": self.kept.name,
            "states": self.kept.states,
            "total": self.total,
            "measure": self.measure,
            "scores": {c.name: None if c.loss is None else float(f"{c.loss:.6g}") for c in self.candidates},
            "ranks": self.by_layer(self.kept),
        }

    def by_layer(self, candidate: Candidate) -> dict[str, int | list[int]]:
        """Layer -> rank, or one per system where they differ."""
        return {
            name: int(ranks[0]) if (ranks == ranks[0]).all() else [int(r) for r in ranks]
            for name, ranks in zip(self.layers, candidate.ranks, strict=True)
        }


def checked_options(options: AllocateOptions, target: str, inputs: np.ndarray | None) -> None:
    """Raises UsageError, CalibrationError for what cannot be done.

    Args:
        options: what was asked.
        target: kind of the target: "rank" and "budget" are totals.
        inputs: (K, L, ...) calibration inputs.
    """
    if options.kind not in KINDS:
        raise UsageError(f"there is no allocation {options.kind!r}", remedy=f"Allocations: {', '.join(KINDS)}")
    if target not in ("rank", "budget"):
        raise UsageError(
            f"--allocate shares out a total of states, and --{target} sets none",
            remedy="Give --budget SHARE, or --rank N as the mean per system",
        )
    if options.kind in ("sensitivity", "best") and inputs is None:
        raise UsageError(f"--allocate {options.kind} needs --calibrate FILE")
    if options.kind == "uniform" and options.per_channel:
        raise UsageError("--allocate uniform gives every channel the same: --per-channel has no meaning")
    if inputs is not None and options.kind != "uniform" and len(inputs) < 4:
        raise CalibrationError(
            f"{len(inputs)} calibration sequences are too few: one half is for choosing, one for judging",
            remedy="Bring 4 or more, better hundreds",
        )
    if options.labels is None:
        return
    if inputs is None:
        raise UsageError("--labels needs --calibrate FILE")
    labels = options.labels
    if labels.dtype.kind not in "iu":
        raise CalibrationError(f"the labels are {labels.dtype}, not whole numbers", remedy="Give the classes' numbers")
    if labels.ndim not in (1, 2) or len(labels) != len(inputs):
        raise CalibrationError(
            f"labels of shape {labels.shape} for {len(inputs)} calibration sequences",
            remedy="Give one label per sequence, or one per step of every sequence",
        )
