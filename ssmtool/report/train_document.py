"""A training run as a JSON document."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ssmtool.checkpoint import open_checkpoint
from ssmtool.report import schema
from ssmtool.report.documents import head, source

if TYPE_CHECKING:
    from ssmtool.training.run import Run


class TrainEpoch(schema._Strict):
    number: int
    step: int
    loss: float = Field(description="mean training loss, without the penalty")
    penalty: float = Field(description="mean weighted penalty")
    validation: float = Field(description="accuracy of the averaged weights")
    rate: float = Field(description="learning rate of the ordinary weights in the epoch's last step")
    state_slots: int
    seconds: float = Field(description="since the run began, time between interruptions not counted")


class TrainTest(schema._Strict):
    accuracy: float
    correct: int
    total: int


class TrainDocument(schema.Document):
    """`input` is the checkpoint that was written, `options` every setting of the run."""

    continued_from: int = Field(description="steps that were done before this call")
    test: TrainTest
    epochs: list[TrainEpoch]


def train_document(run: Run) -> TrainDocument:
    """What `ssmtool train` did."""
    options: dict[str, Any] = dict(run.settings)
    return TrainDocument(
        **head("train", source(open_checkpoint(str(run.checkpoint))), options),
        continued_from=run.continued_from,
        test=TrainTest(**run.test),
        epochs=[TrainEpoch(**asdict(epoch)) for epoch in run.epochs],
    )
