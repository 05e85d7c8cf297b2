"""What compression did, as text."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ssmtool.report.text.notes import add_notes
from ssmtool.report.text.numbers import percent, sci, sizes, span
from ssmtool.report.text.page import Page

if TYPE_CHECKING:
    from ssmtool.families._contract import Layer
    from ssmtool.pipeline.compression import Compression, LayerReduction
    from ssmtool.pipeline.model import Model

_COLUMNS = ("layer", "slots", "states", "bound", "H∞ error", "H2 error", "bytes")


def compress_text(
    model: Model,
    done: Compression,
    skipped: Iterable[Layer] = (),
    *,
    method: str,
    family: str | None = None,
    terminal: bool | None = None,
) -> str:
    """Per layer what was kept and what it costs; the file's size; the command that checks the result."""
    page = Page(terminal)
    page.line(f"{done.source}: {done.target} by {method}" + (", dry run" if done.output is None else ""), "bold")
    page.line()
    page.table(_COLUMNS, map(_row, done.layers))
    page.line()
    page.paragraph(
        "bound: certified, of the H∞ error: a priori plus rounding. Bound and H∞ error are relative to σ₁, the H2 "
        "error to the H2 norm, of each system: the largest of a layer. Errors are measured on the tensors as stored."
    )
    if any(math.isnan(row.bound_relative) for row in done.layers):
        page.paragraph("–: the method has no a priori bound.")
    remarks = [(row.layer.name, remark) for row in done.layers for remark in row.remarks]
    other = [
        (row.layer.name, f"reduced by {row.method}, because its layout has no room for what {method} gives")
        for row in done.layers
        if row.method not in ("", method)
    ]
    left_out = [(layer.name, "input-dependent: left as it is") for layer in skipped]
    add_notes(page, [*remarks, *other, *left_out])
    page.line()
    if done.skipped:
        page.paragraph(f"Not copied: {', '.join(done.skipped)}", hang="  ")
    share = percent(done.bytes_after, done.bytes_before)
    page.line(f"Tensors: {sizes(done.bytes_before, done.bytes_after)} ({share})")
    if done.output is None:
        page.line("Nothing was written: run it again without --dry-run.")
    else:
        page.line(f"Wrote {done.output}", "bold")
        extra = ["--family", family] if family else []
        command = ["ssmtool", "validate", str(model.checkpoint.path), str(done.output), *extra]
        page.line(f"Next: {shlex.join(command)}")
    return page.text()


def _row(row: LayerReduction) -> list[str]:
    return [
        row.layer.name,
        f"{row.layer.slots} → {row.slots}",
        f"{row.layer.order} → {span(row.orders)}",
        sci(row.bound_relative),
        sci(row.hinf_relative),
        sci(row.h2_relative),
        sizes(row.bytes_before, row.bytes_after),
    ]
