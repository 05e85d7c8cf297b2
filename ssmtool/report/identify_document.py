"""What `ssmtool identify` found, as a JSON document."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from ssmtool.report import schema
from ssmtool.report.documents import head
from ssmtool.report.realize_document import number_source

if TYPE_CHECKING:
    from ssmtool.pipeline.identify import Identification


class IdentifyDocument(schema.Document):
    sequences: int
    length: int
    held_out: int = Field(description="steps at the end of every sequence that were not looked at")
    inputs: int
    outputs: int
    order: int
    suggested_order: int = Field(description="after which the singular values fall most")
    sigma: list[float] = Field(description="singular values that orders are read from, descending")
    horizon: int
    weighting: str = Field(description="moesp, n4sid or cva")
    moved: int = Field(description="poles on or outside the unit circle that were moved inside")
    largest_modulus: float = Field(description="of the poles before")
    poles: list[list[float]] = Field(description="[re, im] of every stored mode, one of each conjugate pair")
    dtype: str
    fit: list[float | None] = Field(description="per output, in percent, on what was looked at; null if it is constant")
    held_out_fit: list[float | None] | None = Field(description="the same on the rest; null if nothing was held out")
    output: schema.Output | None = Field(description="null for a dry run")


def identify_document(done: Identification, options: Mapping[str, Any]) -> IdentifyDocument:
    """The document of one run."""
    poles = np.exp(done.system.a[0])
    return IdentifyDocument(
        **head("identify", [number_source(done.inputs), number_source(done.outputs)], options),
        sequences=done.sequences,
        length=done.length,
        held_out=done.held_out,
        inputs=done.system.inputs,
        outputs=done.system.outputs,
        order=done.found.order,
        suggested_order=done.found.suggested,
        sigma=done.found.sigma.tolist(),
        horizon=done.found.horizon,
        weighting=done.found.weighting,
        moved=done.found.moved,
        largest_modulus=done.found.largest,
        poles=[[float(pole.real), float(pole.imag)] for pole in poles],
        dtype=done.dtype,
        fit=_percent(done.fit),
        held_out_fit=None if done.held_out_fit is None else _percent(done.held_out_fit),
        output=None if done.output is None else schema.Output(path=str(done.output), bytes=done.bytes),
    )


def _percent(fit: np.ndarray) -> list[float | None]:
    return [None if math.isnan(value) else value for value in fit.tolist()]
