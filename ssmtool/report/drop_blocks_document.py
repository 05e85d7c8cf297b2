"""Dropped blocks as a JSON document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ssmtool.report import schema
from ssmtool.report.documents import head, source
from ssmtool.report.selective_documents import token_facts

if TYPE_CHECKING:
    from ssmtool.pipeline.drop_blocks import BlockDropping
    from ssmtool.pipeline.model import Model


class DroppedBlock(schema._Strict):
    name: str
    loss: float = Field(description="nats per token without it and all before it")
    losses: dict[str, float] = Field(description="what every candidate would have led to")


class DropBlocksDocument(schema.Document):
    target: str
    tokens: schema.TokenFacts
    measured_sequences: int
    loss: float = Field(description="of the original, nats per token")
    dropped: list[DroppedBlock]
    kept: list[str] = Field(description="names in the original, in order")
    output: schema.Output | None
    bytes_before: int
    bytes_after: int
    skipped_files: list[str]


def drop_blocks_document(model: Model, done: BlockDropping, options: Mapping[str, Any]) -> DropBlocksDocument:
    """What `ssmtool compress --drop-blocks` did."""
    return DropBlocksDocument(
        **head("compress", source(model.checkpoint), options),
        target=f"drop-blocks {len(done.drops)}",
        tokens=token_facts(done.tokens),
        measured_sequences=done.sequences,
        loss=done.loss,
        dropped=[DroppedBlock(name=row.name, loss=row.loss, losses=dict(row.losses)) for row in done.drops],
        kept=list(done.kept),
        output=None if done.output is None else schema.Output(path=str(done.output), bytes=done.bytes_after),
        bytes_before=done.bytes_before,
        bytes_after=done.bytes_after,
        skipped_files=list(done.skipped),
    )
