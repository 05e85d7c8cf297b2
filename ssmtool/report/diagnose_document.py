"""A diagnosis as a JSON document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ssmtool.report import schema
from ssmtool.report.documents import facts, head, source

if TYPE_CHECKING:
    from ssmtool.pipeline.diagnose import Diagnosis
    from ssmtool.pipeline.model import Model
    from ssmtool.training.evaluate import Evaluation


class TaskAccuracy(schema._Strict):
    task: str
    accuracy: float
    correct: int
    total: int


class UsedTokens(schema._Strict):
    description: str
    sha256: str
    sequences: int = Field(description="of those described, used")
    length: int


class DiagnoseDocument(schema.Document):
    tokens: UsedTokens | None = Field(description="null without tokens")
    task: TaskAccuracy | None = Field(description="null without --task")
    layers: list[schema.LayerFacts]
    sections: dict[str, dict[str, Any]] = Field(description="by name; fields: docs/diagnose.md")


def diagnose_document(
    model: Model, found: Diagnosis, accuracy: Evaluation | None, options: Mapping[str, Any]
) -> DiagnoseDocument:
    """What `ssmtool diagnose` found."""
    tokens = None
    if found.tokens is not None:
        tokens = UsedTokens(
            description=found.tokens.description,
            sha256=found.tokens.sha256,
            sequences=found.sequences,
            length=found.length,
        )
    task = None
    if accuracy is not None:
        task = TaskAccuracy(
            task=accuracy.task, accuracy=accuracy.accuracy, correct=accuracy.correct, total=accuracy.total
        )
    return DiagnoseDocument(
        **head("diagnose", source(model.checkpoint), options),
        tokens=tokens,
        task=task,
        layers=[schema.LayerFacts(**facts(layer)) for layer in found.layers],
        sections={name: asdict(section) for name, section in found.sections.items()},
    )
