"""Dropped blocks as text."""

from __future__ import annotations

import math
import shlex
from typing import TYPE_CHECKING

from ssmtool.report.text.numbers import percent, plural, sizes
from ssmtool.report.text.page import Page

if TYPE_CHECKING:
    from ssmtool.pipeline.drop_blocks import BlockDropping


def drop_blocks_text(done: BlockDropping, terminal: bool | None = None) -> str:
    """What the loss is without each block, in the order of the choice; the next commands."""
    page = Page(terminal)
    what = f"{done.source}: {plural(len(done.drops), 'block')} of {len(done.blocks)} left out"
    page.line(what + (", dry run" if done.output is None else ""), "bold")
    page.line(f"loss on {done.sequences} of {done.tokens.description}")
    page.line()
    rows = [["nothing", f"{done.loss:.4f}", f"{math.exp(done.loss):.4f}", "", ""]]
    for i, drop in enumerate(done.drops):
        others = sorted((loss, name) for name, loss in drop.losses.items() if name != drop.name)
        second = f"{others[0][0]:.4f} ({others[0][1]})" if others else "–"
        more = f"{100 * math.expm1(drop.loss - done.loss):+.1f} %"
        rows.append([("and " if i else "") + drop.name, f"{drop.loss:.4f}", f"{math.exp(drop.loss):.4f}", more, second])
    page.table(("without", "loss", "perplexity", "", "next best"), rows)
    page.line()
    page.paragraph(
        "loss: cross-entropy in nats per token. Each block is the one whose absence costs least after those above it. "
        "Nothing is refitted: such a model is a draft for ssmtool speculate, not a replacement."
    )
    page.line()
    if done.skipped:
        page.paragraph(f"Not copied: {', '.join(done.skipped)}", hang="  ")
    share = percent(done.bytes_after, done.bytes_before)
    page.line(f"Tensors: {sizes(done.bytes_before, done.bytes_after)} ({share})")
    if done.output is None:
        page.line("Nothing was written: run it again without --dry-run.")
    else:
        page.line(f"Wrote {done.output}", "bold")
        command = ["ssmtool", "speculate", str(done.source), "--draft", str(done.output), "--tokens", "HELD_OUT.npy"]
        page.line(f"Next: {shlex.join(command)}")
    return page.text()
