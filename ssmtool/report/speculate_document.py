"""Speculative decoding as a JSON document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from ssmtool.report import schema
from ssmtool.report.documents import head, source

if TYPE_CHECKING:
    from ssmtool.pipeline.model import Model
    from ssmtool.pipeline.speculative.results import DraftFacts, Economics, Speculation


class SpeculateDraft(schema._Strict):
    name: str
    blocks_before: int
    blocks_after: int
    states_before: list[int] = Field(description="smallest and largest number of states")
    states_after: list[int]
    weight_bytes_before: int = Field(description="read by a step of the model")
    weight_bytes_after: int
    state_bytes_before: int = Field(description="per sequence")
    state_bytes_after: int


class SpeculateTrial(schema._Strict):
    draft: SpeculateDraft
    tokens_per_second: float
    tokens_per_round: float


class SpeculateCosts(schema._Strict):
    batch: int
    tree: float = Field(description="drafted tokens per round and sequence")
    steps: dict[int, float] = Field(description="of the drafter per round, by the candidates it reads at a time")
    seconds_plain: float = Field(description="one step of plain decoding of the whole batch")
    seconds_draft: float
    seconds_verify: float
    seconds_settle: float
    tokens_per_round: float
    most_tokens_per_round: float
    break_even: float = Field(description="tokens per round at which a round costs what plain decoding does")
    speedup: float = Field(description="at the measured tokens per round")
    best_speedup: float = Field(description="if the deepest branch were always right")
    traffic: float = Field(description="bytes moved by a round over those of a plain step")
    traffic_speedup: float


class SpeculateDocument(schema.Document):
    draft: SpeculateDraft
    trials: list[SpeculateTrial]
    tree: str
    sync: Literal["project", "replay"]
    length: int
    batch: int
    prompts: int
    identical: int = Field(description="prompts whose continuation is that of plain greedy decoding")
    passed: bool
    tokens: list[list[int]] = Field(description="continuations, by prompt")
    rounds: int
    drafted: int
    accepted: int
    accepted_length: float = Field(description="drafted tokens accepted per round")
    draft_steps: int
    plain_steps: int = Field(description="single steps where two choices were too close")
    calls: int = Field(description="of the model: rounds and single steps")
    plain_calls: int
    calls_saved: float
    seconds_plain: float
    seconds: float
    speedup: float
    costs: list[SpeculateCosts]
    device: str


def speculate_document(model: Model, result: Speculation, options: Mapping[str, Any]) -> SpeculateDocument:
    """What `ssmtool speculate` did."""
    tally = result.tally
    return SpeculateDocument(
        **head("speculate", source(model.checkpoint), options),
        draft=_draft(result.draft),
        trials=[
            SpeculateTrial(
                draft=_draft(trial.draft),
                tokens_per_second=trial.tokens_per_second,
                tokens_per_round=trial.tokens_per_round,
            )
            for trial in result.trials
        ],
        tree=result.tree,
        sync="project" if result.sync == "project" else "replay",
        length=result.length,
        batch=result.batch,
        prompts=result.prompts,
        identical=result.identical,
        passed=result.passed,
        tokens=[list(row) for row in result.tokens],
        rounds=tally.rounds,
        drafted=tally.drafted,
        accepted=tally.accepted,
        accepted_length=result.accepted_length,
        draft_steps=tally.draft_steps,
        plain_steps=tally.plain_steps,
        calls=result.calls,
        plain_calls=result.plain_calls,
        calls_saved=result.saved,
        seconds_plain=result.seconds_plain,
        seconds=result.seconds,
        speedup=result.speedup,
        costs=[_costs(row) for row in result.economics],
        device=result.device,
    )


def _draft(found: DraftFacts) -> SpeculateDraft:
    return SpeculateDraft(
        name=found.name,
        blocks_before=found.blocks[0],
        blocks_after=found.blocks[1],
        states_before=list(found.states[0]),
        states_after=list(found.states[1]),
        weight_bytes_before=found.weight_bytes[0],
        weight_bytes_after=found.weight_bytes[1],
        state_bytes_before=found.state_bytes[0],
        state_bytes_after=found.state_bytes[1],
    )


def _costs(row: Economics) -> SpeculateCosts:
    return SpeculateCosts(
        batch=row.batch,
        tree=row.tree,
        steps=dict(row.steps),
        seconds_plain=row.plain,
        seconds_draft=row.draft,
        seconds_verify=row.verify,
        seconds_settle=row.settle,
        tokens_per_round=row.tokens,
        most_tokens_per_round=row.most,
        break_even=row.break_even,
        speedup=row.speedup,
        best_speedup=row.best,
        traffic=row.traffic,
        traffic_speedup=row.traffic_speedup,
    )
