"""Results as JSON documents (schema.py)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssmtool.report import schema
from ssmtool.report.facts import channels, layer_share, orders, share
from ssmtool.version import __version__

if TYPE_CHECKING:
    from ssmtool.checkpoint import Checkpoint
    from ssmtool.families._contract import Layer
    from ssmtool.pipeline.allocation import Allocation
    from ssmtool.pipeline.compression import Compression, LayerReduction
    from ssmtool.pipeline.model import LayerSpectrum, Model
    from ssmtool.pipeline.refine import Refinement
    from ssmtool.pipeline.validation import LayerValidation, Validation
    from ssmtool.training.evaluate import Evaluation


def inspect_document(model: Model, options: Mapping[str, Any]) -> schema.InspectDocument:
    """What `ssmtool inspect` found. The data is not hashed: only headers are read."""
    total = share(model.checkpoint.tensors.values()).parameters
    ours = layer_share(model, model.layers).parameters
    return schema.InspectDocument(
        **head("inspect", source(model.checkpoint, hashed=False), options),
        parameters=total,
        state_space_parameters=ours,
        state_space_share=ours / total if total else 0.0,
        layers=[_inspect_layer(model, layer, total) for layer in model.layers],
    )


def _inspect_layer(model: Model, layer: Layer, total: int) -> schema.InspectLayer:
    part = layer_share(model, [layer])
    return schema.InspectLayer(
        **facts(layer),
        channels=channels(layer),
        lti=layer.lti,
        dtypes=list(part.dtypes),
        parameters=part.parameters,
        share=part.parameters / total if total else 0.0,
        bytes=part.bytes,
        tensors=dict(layer.tensors),
        options=dict(layer.options),
        note=layer.note,
    )


def hsv_document(
    model: Model, spectra: Sequence[LayerSpectrum], skipped: Iterable[Layer], options: Mapping[str, Any]
) -> schema.HsvDocument:
    """What `ssmtool hsv` computed."""
    layers = [
        schema.HsvLayer(
            **facts(entry.layer),
            redundant=int(entry.spectrum.redundant.sum()),
            unstable=int(entry.spectrum.unstable.sum()),
            sigma=entry.spectrum.sigma.tolist(),
            orders={target: found.tolist() for target, found in orders(entry.spectrum.sigma).items()},
        )
        for entry in spectra
    ]
    return schema.HsvDocument(
        **head("hsv", source(model.checkpoint), options),
        layers=layers,
        skipped=[layer.name for layer in skipped],
    )


def compress_document(
    model: Model, done: Compression, skipped: Iterable[Layer], options: Mapping[str, Any]
) -> schema.CompressDocument:
    """What `ssmtool compress` did."""
    return schema.CompressDocument(
        **head("compress", source(model.checkpoint), options),
        target=done.target,
        method=done.how.method,
        output=None if done.output is None else schema.Output(path=str(done.output), bytes=done.bytes_after),
        bytes_before=done.bytes_before,
        bytes_after=done.bytes_after,
        layers=[_compress_layer(row) for row in done.layers],
        refinement=_refinement(done.refinement),
        control=_refinement(done.control),
        skipped_layers=[layer.name for layer in skipped],
        skipped_files=list(done.skipped),
        allocation=None if done.allocation is None else _allocation(done.allocation),
    )


def _allocation(found: Allocation) -> schema.AllocationFacts:
    return schema.AllocationFacts(
        asked=found.asked,
        kept=found.kept.name,
        total=found.total,
        measure=found.measure,
        judged=found.judged,
        candidates=[
            schema.AllocationCandidate(
                name=one.name,
                states=one.states,
                bytes_after=one.bytes_after,
                loss=one.loss,
                accuracy=one.accuracy,
                allowed=one.allowed,
                ranks=found.by_layer(one),
            )
            for one in found.candidates
        ],
    )


def _compress_layer(row: LayerReduction) -> schema.CompressLayer:
    return schema.CompressLayer(
        **facts(row.layer),
        method=row.method,
        slots_after=row.slots,
        orders_after=row.orders.tolist(),
        hankel_norm=row.hankel_norm.tolist(),
        bound=[_known(bound) for bound in row.bound.tolist()],
        hinf_error=row.hinf.tolist(),
        h2_error=row.h2.tolist(),
        bound_relative=_known(row.bound_relative),
        hinf_error_relative=row.hinf_relative,
        h2_error_relative=row.h2_relative,
        bytes_before=row.bytes_before,
        bytes_after=row.bytes_after,
        remarks=list(row.remarks),
        tried=dict(row.tried),
        refined=row.refined,
    )


def _refinement(found: Refinement | None) -> schema.RefinementFacts | None:
    if found is None:
        return None
    whole, agreement = found.outputs, found.agreement
    rows = [(row.name, row.fit) for row in found.layers]
    return schema.RefinementFacts(
        layers=[schema.RefinedLayer(name=n, before=f.before, after=f.after, steps=f.steps) for n, f in rows],
        outputs=schema.RefinedOutputs(
            kind="classes" if agreement else "values", before=whole.before, after=whole.after, steps=whole.steps
        ),
        agreement_before=agreement[0] if agreement else None,
        agreement_after=agreement[1] if agreement else None,
        fitted_sequences=found.sequences[0],
        held_out_sequences=found.sequences[1],
    )


def validate_document(
    original: Model, reduced: Model, result: Validation, options: Mapping[str, Any]
) -> schema.ValidateDocument:
    """What `ssmtool validate` measured."""
    return schema.ValidateDocument(
        **head("validate", source(original.checkpoint), options),
        reduced=source(reduced.checkpoint),
        passed=result.passed,
        length=result.length,
        device=result.device,
        backend=result.backend,
        max_error=result.max_error,
        layers=[_validate_layer(layer) for layer in result.layers],
    )


def _validate_layer(layer: LayerValidation) -> schema.ValidateLayer:
    before, after = layer.original, layer.reduced
    return schema.ValidateLayer(
        name=layer.name,
        systems=layer.systems,
        slots_before=layer.slots[0],
        slots_after=layer.slots[1],
        bound=_known(layer.bound),
        hinf=layer.hinf,
        hinf_within=layer.hinf_within,
        inputs=[
            schema.InputError(input=row.input, gain=row.gain, error=row.error, within=row.within)
            for row in layer.inputs
        ],
        agreement_before=schema.Agreement(scan=before.scan, convolution=before.convolution),
        agreement_after=schema.Agreement(scan=after.scan, convolution=after.convolution),
        operation=layer.operation,
        seconds_before=layer.seconds_original,
        seconds_after=layer.seconds_reduced,
        floor_before=layer.floor_original,
        floor_after=layer.floor_reduced,
        speedup=layer.seconds_original / layer.seconds_reduced if layer.seconds_reduced > 0 else None,
        compared="stable part" if layer.stable_part else "whole",
        unstable_before=layer.unstable[0],
        unstable_after=layer.unstable[1],
        unstable_deviation=layer.unstable_deviation,
        passed=layer.passed,
        reason=layer.reason,
    )


def evaluate_document(
    checkpoints: Sequence[Checkpoint], results: Sequence[Evaluation], options: Mapping[str, Any]
) -> schema.EvaluateDocument:
    """What `ssmtool evaluate` counted."""
    rows = [
        schema.EvaluateResult(
            path=str(checkpoint.path),
            task=result.task,
            accuracy=result.accuracy,
            correct=result.correct,
            total=result.total,
            parameters=result.parameters,
            stored_modes=result.state_slots,
            seconds=result.seconds,
        )
        for checkpoint, result in zip(checkpoints, results, strict=True)
    ]
    return schema.EvaluateDocument(
        **head("evaluate", [source(checkpoint) for checkpoint in checkpoints], options), results=rows
    )


def head(command: str, source: schema.Source | list[schema.Source], options: Mapping[str, Any]) -> dict[str, Any]:
    """Fields every document starts with."""
    given = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    return {"tool": schema.Tool(version=__version__), "command": command, "input": source, "options": given}


def source(checkpoint: Checkpoint, hashed: bool = True) -> schema.Source:
    return schema.Source(
        path=str(checkpoint.path),
        kind=checkpoint.kind,
        sha256=checkpoint.sha256() if hashed else None,
        tensors=len(checkpoint.tensors),
        bytes=checkpoint.data_bytes,
    )


def facts(layer: Layer) -> dict[str, Any]:
    return {
        "name": layer.name,
        "family": layer.family,
        "variant": layer.variant,
        "systems": layer.systems,
        "inputs": layer.inputs,
        "outputs": layer.outputs,
        "order": layer.order,
        "stored_slots": layer.slots,
    }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
