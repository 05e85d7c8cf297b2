"""An identified system, as text."""

from __future__ import annotations

import math
import shlex
from typing import TYPE_CHECKING

from ssmtool.report.text.numbers import plural, size
from ssmtool.report.text.page import Page

if TYPE_CHECKING:
    from ssmtool.pipeline.identify import Identification

_SHOWN = 4  # singular values shown beyond the order


def identify_text(done: Identification, terminal: bool | None = None) -> str:
    """The singular values that the order is read from, the fit of every output, the command to go on with."""
    page, found = Page(terminal), done.found
    title = f"{done.outputs.path} from {done.inputs.path}: order {found.order}"
    page.line(title + (", dry run" if done.output is None else ""), "bold")
    held = f", the last {done.held_out} of them held out" if done.held_out else ""
    page.line(f"{plural(done.sequences, 'sequence')} of {plural(done.length, 'step')}{held}")
    page.line()
    count = min(len(found.sigma), max(found.order, found.suggested) + _SHOWN)
    scale = found.sigma[0]
    rows = []
    for k in range(count):
        fall = found.sigma[k] / found.sigma[k + 1] if k + 1 < len(found.sigma) and found.sigma[k + 1] > 0 else math.inf
        marks = [word for word, at in (("order", found.order), ("largest fall", found.suggested)) if at == k + 1]
        rows.append((str(k + 1), f"{found.sigma[k] / scale:.2e}", f"{fall:.3g}×", ", ".join(marks)))
    page.table(("r", "σᵣ/σ₁", "σᵣ/σᵣ₊₁", ""), rows, left=(3,))
    page.line()
    parts = [done.fit] + ([] if done.held_out_fit is None else [done.held_out_fit])
    columns = ("output", "fit", *(("held out",) if len(parts) > 1 else ()))
    page.table(columns, ((str(i + 1), *(_percent(float(fit[i])) for fit in parts)) for i in range(len(done.fit))))
    page.line()
    page.paragraph(
        "σ: of the projection of future outputs on the past; a system of order n without noise has n that are not 0. "
        f"fit: 100 (1 - ‖y - ŷ‖ / ‖y - mean‖) of the simulated output, tensors as stored. Method: {found.weighting}, "
        f"horizon {found.horizon}."
    )
    if not done.given:
        page.paragraph(f"The order {found.order} was chosen where the values fall most: give --order for another.")
    if found.moved:
        page.paragraph(
            f"{plural(found.moved, 'pole')} came out on or outside the unit circle (modulus up to {found.largest:.6g}) "
            "and the model was made stable."
        )
    page.line()
    if done.output is None:
        page.line("Nothing was written: run it again without --dry-run.")
    else:
        page.line(f"Wrote {done.output} ({size(done.bytes)} of tensors)", "bold")
        page.line(f"Next: {shlex.join(['ssmtool', 'hsv', str(done.output)])}")
    return page.text()


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f} %"
