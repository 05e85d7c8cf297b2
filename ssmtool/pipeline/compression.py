"""What `compress` did, and how it is recorded in the new checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ssmtool.families._contract import Layer
from ssmtool.pipeline.allocation import Allocation
from ssmtool.pipeline.methods import How
from ssmtool.pipeline.refine import Refinement
from ssmtool.shown import markdown
from ssmtool.version import __version__


@dataclass(frozen=True)
class LayerReduction:
    """What became of one layer. Errors are those of the tensors as stored, rounding included.

    Attributes:
        layer: the original layer.
        method: reduction that was used ("" if the layer was left as it is).
        slots: stored modes per system after the reduction.
        orders: (S,) states of each reduced system.
        hankel_norm: (S,) sigma_1 of the original.
        bound: (S,) certified bound on the H-infinity error: a priori bound of the truncation plus the measured error of
            storing its result (diagonal form and rounding); NaN where the method gives no bound.
        hinf: (S,) measured H-infinity error.
        h2: (S,) measured H2 error.  h2_norm: (S,) H2 norm of the original, without D.
        bytes_before, bytes_after: of the layer's state-space tensors.
        remarks: what the user should know.
        tried: (method, error) of every method that was compared, the simplest first; empty if one was asked for.
        refined: whether it was fitted to the original on calibration inputs afterwards.
    """

    layer: Layer
    method: str
    slots: int
    orders: np.ndarray
    hankel_norm: np.ndarray
    bound: np.ndarray
    hinf: np.ndarray
    h2: np.ndarray
    h2_norm: np.ndarray
    bytes_before: int
    bytes_after: int
    remarks: tuple[str, ...] = ()
    tried: tuple[tuple[str, float], ...] = ()
    refined: bool = False

    @property
    def bound_relative(self) -> float:
        """Largest bound of a system relative to its Hankel norm (NaN without a bound)."""
        return _worst(self.bound, self.hankel_norm)

    @property
    def hinf_relative(self) -> float:
        """Largest measured H-infinity error of a system relative to its Hankel norm."""
        return _worst(self.hinf, self.hankel_norm)

    @property
    def h2_relative(self) -> float:
        """Largest measured H2 error of a system relative to its H2 norm."""
        return _worst(self.h2, self.h2_norm)


@dataclass(frozen=True)
class Compression:
    """Result of `compress`.

    Attributes:
        source: the input.  output: the new checkpoint (None for a dry run).
        target: what was asked for, e.g. "rank 16".
        layers: one entry per state-space layer that was selected.
        bytes_before, bytes_after: tensor bytes of the whole checkpoint.
        source_sha256: hash of the input.
        skipped: files of the input that did not go along.
        how: the method.
        refinement: what a refinement reached; control: the same on white noise instead of the calibration inputs.
        allocation: how the states were shared out; None if every system got the same.
    """

    source: Path
    output: Path | None
    target: str
    layers: tuple[LayerReduction, ...]
    bytes_before: int
    bytes_after: int
    source_sha256: str
    skipped: tuple[str, ...] = ()
    how: How = field(default_factory=How)
    refinement: Refinement | None = None
    control: Refinement | None = None
    allocation: Allocation | None = None


def provenance(summary: Compression) -> dict[str, Any]:
    """What is written into the new checkpoint's metadata under the key "ssmtool"."""
    return {
        "version": __version__,
        "target": summary.target,
        "source_sha256": summary.source_sha256,
        **({} if summary.allocation is None else {"allocation": summary.allocation.record()}),
        "layers": [
            {
                "name": row.layer.name,
                "method": row.method,
                "refined": row.refined,
                "slots": row.slots,
                "orders": [int(row.orders.min()), int(row.orders.max())],
                "bound": [None if np.isnan(x) else float(f"{x:.7g}") for x in row.bound],
                "hinf_error": float(f"{row.hinf.max():.6g}"),
                "hinf_error_relative": float(f"{row.hinf_relative:.6g}"),
                "h2_error_relative": float(f"{row.h2_relative:.6g}"),
            }
            for row in summary.layers
        ],
    }


def card(summary: Compression) -> str:
    """Markdown section for a README.md."""
    lines = [
        "## State reduction",
        "",
        f"State-space layers reduced with ssmtool {__version__} ({summary.target}); tensor bytes "
        f"{summary.bytes_before:,} → {summary.bytes_after:,}; source sha256 `{summary.source_sha256}`.",
        "",
        "| layer | method | slots | states | bound / σ₁ | H∞ error / σ₁ | H2 error, relative |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in summary.layers:
        lines.append(
            f"| {markdown(row.layer.name)} | {row.method or 'unchanged'} | {row.layer.slots} → {row.slots} "
            f"| {row.layer.order} → {row.orders.max()} | {row.bound_relative:.2e} | {row.hinf_relative:.2e} "
            f"| {row.h2_relative:.2e} |"
        )
    return "\n".join(lines) + "\n"


def _worst(error: np.ndarray, scale: np.ndarray) -> float:
    """Largest error / scale; a system whose scale is 0 counts only if its error is not."""
    ratio = np.divide(error, scale, out=np.where(error > 0, np.inf, 0.0), where=scale > 0)
    return float(ratio.max(initial=0.0))
