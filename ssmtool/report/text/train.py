"""A training run as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssmtool.report.text.numbers import plural, seconds
from ssmtool.report.text.page import Page

if TYPE_CHECKING:
    from ssmtool.training.run import Run


def train_text(run: Run, terminal: bool | None = None) -> str:
    """What was trained, what it reaches, and where it is."""
    page, settings, last = Page(terminal), run.settings, run.epochs[-1]
    extras = [f"{name} {settings[name]}" for name in ("reg", "truncate") if settings[name] != "none"]
    page.line(", ".join([f"Task {settings['task']}, model {settings['model']}", *extras]), "bold")
    page.line()
    if run.continued_from >= last.step:
        page.line("The run was finished already; nothing was done.")
    elif run.continued_from:
        page.line(f"Continued from step {run.continued_from:,} of {last.step:,}.")
    page.line(
        f"{plural(last.number, 'epoch')}, {plural(last.step, 'step')}, {seconds(last.seconds)}; "
        f"last training loss {last.loss:.4f}" + (f", penalty {last.penalty:.4f}" if last.penalty else "")
    )
    page.line(f"Validation  {100 * last.validation:.2f} %")
    page.line(f"Test        {100 * run.test['accuracy']:.2f} %  ({run.test['correct']}/{run.test['total']})")
    page.line(f"Stored modes {last.state_slots:,}")
    page.line()
    page.line(f"Wrote {run.checkpoint}")
    return page.text()
