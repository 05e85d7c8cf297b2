"""Speculative decoding as text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ssmtool.report.text.numbers import plural, seconds, size
from ssmtool.report.text.page import Page, verdict

if TYPE_CHECKING:
    from ssmtool.pipeline.speculative.results import DraftFacts, Economics, Speculation, Trial

EVEN = 0.05  # speed-ups closer to 1 than this are noise
SYNCS = {"project": "its state projected from the model's", "replay": "it reads what was accepted"}


def speculate_text(
    path: Path, result: Speculation, continuation: str | None = None, terminal: bool | None = None
) -> str:
    """Trials of drafts, what was accepted and saved, and what a round costs; `continuation`: of the first prompt."""
    page, draft = Page(terminal), result.draft
    page.line(f"{path} drafted by {draft.name}", "bold")
    page.line(f"{plural(result.prompts, 'prompt')}, {plural(result.length, 'token')} each, {_together(result)}")
    page.line(f"tree {result.tree}; draft: {SYNCS[result.sync]}")
    page.line()
    if result.trials:
        _trials(page, result)
    page.table(("", "model", "draft"), _facts(draft))
    page.line()
    if continuation is not None:
        page.line(f"continuation: {continuation!r}")
        page.line()
    _decoding(page, result)
    if result.economics:
        page.line()
        _economics(page, result)
    return page.text()


def _together(result: Speculation) -> str:
    return "one at a time" if result.batch == 1 else f"{result.batch} at a time"


def _trials(page: Page, result: Speculation) -> None:
    columns = ("drafts tried", "weights", "state", "tokens per round", "tokens/s", "")
    page.table(columns, (_trial(trial, result.draft.name) for trial in result.trials))
    page.line()


def _trial(trial: Trial, taken: str) -> list[str]:
    found = trial.draft
    return [
        found.name,
        size(found.weight_bytes[1]),
        size(found.state_bytes[1]),
        f"{trial.tokens_per_round:.2f}",
        f"{trial.tokens_per_second:.0f}",
        "taken" if found.name == taken else "",
    ]


def _facts(draft: DraftFacts) -> list[list[str]]:
    return [
        ["blocks", *map(str, draft.blocks)],
        ["states", *(str(high) if low == high else f"{low}–{high}" for low, high in draft.states)],
        ["weights read by a step", *map(size, draft.weight_bytes)],
        ["state of a sequence", *map(size, draft.state_bytes)],
    ]


def _decoding(page: Page, result: Speculation) -> None:
    tally = result.tally
    tokens = result.prompts * result.length
    same = verdict(result.passed, "identical to plain greedy decoding", "NOT those of plain greedy decoding")
    drafted = f"of {tally.drafted / max(tally.rounds, 1):.1f} tokens drafted per round"
    saved = f"plain {result.plain_calls:,}: {100 * result.saved:.1f} % saved"
    rows = [
        ["continuations", f"{result.identical} of {result.prompts}", same],
        ["accepted length", f"{result.accepted_length:.2f}", drafted],
        ["calls of the model", f"{result.calls:,}", saved],
        ["steps of the draft", f"{tally.draft_steps:,}", ""],
        ["wall time", seconds(result.seconds), f"plain {seconds(result.seconds_plain)}: {result.speedup:.2f}×"],
        ["tokens/s", f"{tokens / result.seconds:.0f}", f"plain {tokens / result.seconds_plain:.0f}"],
    ]
    page.table(("decoding", "", ""), rows, left=(0, 2))
    if tally.plain_steps:
        page.line()
        page.paragraph(
            f"{plural(tally.plain_steps, 'single step')} of the model where its two best tokens were too close to be "
            "told apart by a pass over several tokens."
        )


def _economics(page: Page, result: Speculation) -> None:
    parts = ("plain\nstep", "draft", "verify", "settle")
    columns = ("batch", *parts, "break-even", "tokens\nper round", "speed-up", "at best", "by bytes\nmoved")
    page.table(columns, map(_costs, result.economics))
    page.line()
    row = result.economics[0]
    page.paragraph(
        f"A mean round at each batch size, measured on {result.device}: {row.tree:.1f} tokens drafted in "
        f"{sum(row.steps.values()):.1f} steps, and verified behind the last certain one. break-even: tokens per round "
        "at which a round costs what plain decoding does. speed-up: at the tokens per round measured above; at best: "
        f"if the deepest branches were right, {row.most:.1f} tokens. by bytes moved: the same on a machine that waits "
        "for memory alone: weights once per call, states once per sequence."
    )
    page.line()
    for row in result.economics:
        page.paragraph(judgement(row), hang="  ")


def judgement(row: Economics) -> str:
    """Whether speculation pays at this batch size, in words."""
    found = (
        f"a round costs {row.break_even:.2f} plain steps and yields {row.tokens:.2f} tokens, {row.speedup:.2f}× as fast"
    )
    if row.best < 1:
        word = "cannot pay with such trees"
        found += f", and {row.best:.2f}× if all drafts were right"
    else:
        word = "pays here" if row.speedup > 1 + EVEN else "makes no difference here"
        word = "does not pay here" if row.speedup < 1 - EVEN else word
    return f"Batch {row.batch}: it {word}: {found}."


def _costs(row: Economics) -> list[str]:
    return [
        str(row.batch),
        *map(seconds, (row.plain, row.draft, row.verify, row.settle)),
        f"{row.break_even:.2f}",
        f"{row.tokens:.2f}",
        f"{row.speedup:.2f}×",
        f"{row.best:.2f}×",
        f"{row.traffic_speedup:.2f}×",
    ]
