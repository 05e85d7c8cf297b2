"""What `ssmtool realize` made, as a JSON document."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ssmtool.report import schema
from ssmtool.report.documents import head

if TYPE_CHECKING:
    from ssmtool.pipeline.numbers import NumberFile
    from ssmtool.pipeline.realisation import LayerRealisation, Realised


class RealizeLayer(schema._Strict):
    name: str
    axes: str = Field(description="how the array was read: S systems, p outputs, m inputs, L lags")
    systems: int
    outputs: int
    inputs: int
    lags: int
    dtype: str
    stored_slots: int
    methods: list[str] = Field(description="per system")
    orders: list[int] = Field(description="per system")
    sigma: list[list[float]] = Field(description="per system, leading Hankel singular values, as far as computed")
    hankel_norm: list[float] = Field(description="per system")
    least_error: list[float] = Field(
        description="per system: no model with as many states has a smaller H-infinity error"
    )
    bound: list[float | None] = Field(description="per system, a priori, H-infinity; null where there is none")
    hinf_error: list[float] = Field(description="per system, measured")
    lag_error: list[float] = Field(description="per system, root of the energy of the error over the lags")
    beyond: list[float] = Field(description="per system, root of the energy of the model after the last lag")
    norm: list[float] = Field(description="per system, root of the energy of the lags")
    bound_relative: float | None
    hinf_error_relative: float
    lag_error_relative: float
    beyond_relative: float
    bytes: int
    remarks: list[str]


class RealizeDocument(schema.Document):
    target: str
    output: schema.Output | None = Field(description="null for a dry run")
    layers: list[RealizeLayer]


def realize_document(done: Realised, options: Mapping[str, Any]) -> RealizeDocument:
    """The document of one run."""
    return RealizeDocument(
        **head("realize", number_source(done.source), options),
        target=done.target,
        output=None if done.output is None else schema.Output(path=str(done.output), bytes=done.bytes),
        layers=[_layer(layer) for layer in done.layers],
    )


def number_source(file: NumberFile) -> schema.Source:
    """A file of numbers as the input of a document."""
    return schema.Source(
        path=str(file.path), kind=file.kind, sha256=file.sha256, tensors=len(file.arrays), bytes=file.bytes
    )


def _layer(layer: LayerRealisation) -> RealizeLayer:
    return RealizeLayer(
        name=layer.name,
        axes=layer.axes,
        systems=layer.systems,
        outputs=layer.outputs,
        inputs=layer.inputs,
        lags=layer.length,
        dtype=layer.dtype,
        stored_slots=layer.slots,
        methods=list(layer.methods),
        orders=layer.orders.tolist(),
        sigma=[values.tolist() for values in layer.sigma],
        hankel_norm=layer.hankel_norm.tolist(),
        least_error=layer.least.tolist(),
        bound=[_known(value) for value in layer.bound.tolist()],
        hinf_error=layer.hinf.tolist(),
        lag_error=layer.lags.tolist(),
        beyond=layer.beyond.tolist(),
        norm=layer.norm.tolist(),
        bound_relative=_known(layer.relative("bound")),
        hinf_error_relative=layer.relative("hinf"),
        lag_error_relative=layer.relative("lags"),
        beyond_relative=layer.relative("beyond"),
        bytes=layer.bytes,
        remarks=list(layer.remarks),
    )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
