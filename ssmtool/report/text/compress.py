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
    from ssmtool.fitting import Fit
    from ssmtool.pipeline.compression import Compression, LayerReduction
    from ssmtool.pipeline.model import Model

_COLUMNS = ("layer", "slots", "states", "bound", "H∞ error", "H2 error", "bytes")


def compress_text(
    model: Model,
    done: Compression,
    skipped: Iterable[Layer] = (),
    *,
    family: str | None = None,
    terminal: bool | None = None,
) -> str:
    """Per layer what was kept and what it costs; the file's size; the command that checks the result."""
    page = Page(terminal)
    method = done.how.method
    how = done.how.description + (", refined" if done.refinement else "")
    page.line(f"{done.source}: {done.target} by {how}" + (", dry run" if done.output is None else ""), "bold")
    page.line()
    page.table(_COLUMNS, map(_row, done.layers))
    page.line()
    page.paragraph(
        "bound: certified, of the H∞ error: a priori plus rounding. Bound and H∞ error are relative to σ₁, the H2 "
        "error to the H2 norm, of each system: the largest of a layer. Errors are measured on the tensors as stored."
    )
    if any(math.isnan(row.bound_relative) for row in done.layers):
        page.paragraph("–: no a priori bound holds.")
    remarks = [(row.layer.name, remark) for row in done.layers for remark in row.remarks]
    other = [
        (row.layer.name, f"reduced by {row.method}, because its layout has no room for what {method} gives")
        for row in done.layers
        if row.method not in ("", method) and not row.tried
    ]
    left_out = [(layer.name, "input-dependent: left as it is") for layer in skipped]
    add_notes(page, [*remarks, *other, *left_out])
    _tried(page, done)
    _refinement(page, done)
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


def _tried(page: Page, done: Compression) -> None:
    """Which methods were compared, and which one stayed."""
    rows = [row for row in done.layers if row.tried]
    if not rows:
        return
    names = list(dict.fromkeys(name for row in rows for name, _ in row.tried))
    page.line()
    page.table(
        ("layer", *names, "kept"),
        [[row.layer.name, *(sci(dict(row.tried).get(name, math.nan)) for name in names), row.method] for row in rows],
    )
    page.line()
    page.paragraph(
        "What each method would lose: output error on the calibration inputs where given, else H2 error, relative, all "
        "systems of a layer together. Within one per cent the simpler method stays."
    )


def _refinement(page: Page, done: Compression) -> None:
    """What the fit reached on held-out inputs, and the control."""
    found = done.refinement
    if found is None:
        return
    page.line()
    control = {row.name: row.fit for row in done.control.layers} if done.control else {}
    head = ("refined", "before", "after", *(("noise",) if control else ()), "steps")
    body = [
        [row.name, sci(row.fit.before), sci(row.fit.after), *_other(control.get(row.name)), str(row.fit.steps)]
        for row in found.layers
    ]
    last, other = found.outputs, _other(done.control.outputs if done.control else None)
    body.append(["model", sci(last.before), sci(last.after), *other, str(last.steps)])
    page.table(head, body)
    page.line()
    used, judging = found.sequences
    kind = "mean square error over variance of its outputs"
    if found.agreement:
        kind = f"divergence in nats of its outputs; same class {found.agreement[0]:.1%} → {found.agreement[1]:.1%}"
    page.paragraph(
        f"Fitted to {used} sequences without labels, judged on {judging} others. Layers: mean square error of the "
        f"block's output over its variance; model: {kind}."
    )
    if control:
        page.paragraph("noise: the same fit on white noise with the inputs' mean and variance, judged on the inputs.")


def _other(control: Fit | None) -> list[str]:
    """The cell of the control, if there is one."""
    return [] if control is None else [sci(control.after)]


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
