"""Benchmarks of the scans as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssmtool.report.text.numbers import plural, sci, seconds
from ssmtool.report.text.page import Page

if TYPE_CHECKING:
    from ssmtool.pipeline.bench import Bench, OperationBench, Sweep


def listing_text(device: str, terminal: bool | None = None) -> str:
    """Operations, their sizes on a device, and what runs them."""
    from ssmtool_kernels.case import cases

    page = Page(terminal)
    rows = [
        (name, sizes(case.sizes(device)), ", ".join(("naive", *case.backends)), ", ".join(case.peers) or "–")
        for name, case in cases().items()
    ]
    page.table(("operation", "sizes", "backends", "peers"), rows, left=(0, 1, 2, 3))
    return page.text()


def bench_text(result: Bench, terminal: bool | None = None) -> str:
    """A table per operation, and one of what smaller states buy."""
    page = Page(terminal)
    where = f"{result.device}, {plural(result.threads, 'thread')}" if result.device == "cpu" else result.device
    page.line(f"{result.dtype} on {where}", "bold")
    for entry in result.operations:
        page.line()
        _operation(page, entry)
    page.line()
    page.paragraph(
        "error: relative to the definition in float64, ‖y − y₆₄‖₂ / ‖y₆₄‖₂, and the largest over the largest number; "
        "gradients on at most 256 steps. Times: least of several runs; speed-up of the forward pass over the first row."
    )
    return page.text()


def _operation(page: Page, entry: OperationBench) -> None:
    page.line(f"{entry.operation}  {sizes(entry.shape)}", "bold")
    floors = any(row.floor is not None for row in entry.timings)
    first = entry.timings[0].forward if entry.timings else 1.0
    rows = [
        [
            row.name + (" (peer)" if row.peer else ""),
            seconds(row.forward),
            "–" if row.backward is None else seconds(row.backward),
            f"{first / row.forward:.1f}×",
            sci(row.errors.l2),
            sci(row.errors.largest),
            "–" if row.gradients is None else sci(row.gradients.l2),
            *([f"{100 * row.floor:.0f} %" if row.floor is not None else "–"] if floors else []),
        ]
        for row in entry.timings
    ]
    columns = (
        "",
        "forward",
        "backward",
        "speed-up",
        "error",
        "largest",
        "gradients",
        *(["of floor"] if floors else []),
    )
    page.table(columns, rows)
    for name, reason in entry.absent.items():
        page.line(f"{name}: {reason}")
    if entry.sweep is not None and len(entry.sweep.sizes) > 1:
        _sweep(page, entry.sweep)


def _sweep(page: Page, sweep: Sweep) -> None:
    rows = []
    for backend, times in sweep.seconds.items():
        rows.append([backend, *(f"{seconds(time)} ({times[0] / time:.1f}×)" for time in times)])
    page.table(("", *(f"{sweep.letter} = {size}" for size in sweep.sizes)), rows)


def sizes(shape) -> str:
    """B=4 L=1024 packed: sizes by letter, then the options that are on."""
    letters = [f"{name}={size}" for name, size in shape.items() if name[0].isupper()]
    return " ".join([*letters, *(name for name, on in shape.items() if not name[0].isupper() and on)])
