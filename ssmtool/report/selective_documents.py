"""Results about selective layers as JSON documents (schema.py)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ssmtool.report import schema
from ssmtool.report.documents import facts, head, source
from ssmtool.report.text.selective import ERRORS

if TYPE_CHECKING:
    from ssmtool.pipeline.model import Model
    from ssmtool.pipeline.selective_compression import SelectiveCompression
    from ssmtool.pipeline.selective_hsv import CalibratedHsv, LayerCalibration
    from ssmtool.pipeline.tokens import Tokens


def token_facts(tokens: Tokens) -> schema.TokenFacts:
    """Which tokens were used."""
    return schema.TokenFacts(
        description=tokens.description,
        sequences=tokens.array.shape[0],
        length=tokens.array.shape[1],
        sha256=tokens.sha256,
    )


def calibrated_document(model: Model, found: CalibratedHsv, options: Mapping[str, Any]) -> schema.CalibratedHsvDocument:
    """What `ssmtool hsv` measured on selective layers."""
    return schema.CalibratedHsvDocument(
        **head("hsv", source(model.checkpoint), options),
        tokens=None if found.tokens is None else token_facts(found.tokens),
        layers=[_layer(row) for row in found.layers],
    )


def _layer(row: LayerCalibration) -> schema.CalibratedLayer:
    mixers = []
    for k, static in enumerate(row.static):
        measured = row.spectra[k] if row.spectra else None
        mixers.append(
            schema.CalibratedMixer(
                static_values=static.tolist(),
                values=None if measured is None else measured.values.tolist(),
                predicted_error=None if measured is None else measured.errors.tolist(),
                effective_size=None if measured is None else measured.entropy_size,
                states_for_error=None if measured is None else {f"{e:g}": measured.size(e) for e in ERRORS},
            )
        )
    return schema.CalibratedLayer(**facts(row.layer), mixers=mixers)


def selective_compress_document(
    model: Model, done: SelectiveCompression, options: Mapping[str, Any]
) -> schema.SelectiveCompressDocument:
    """What `ssmtool compress` did to selective layers."""
    return schema.SelectiveCompressDocument(
        **head("compress", source(model.checkpoint), options),
        target=done.target,
        export=done.export.value,
        select=None if done.select is None else done.select.value,
        refit_steps=done.refit_steps,
        tokens=token_facts(done.tokens),
        output=None if done.output is None else schema.Output(path=str(done.output), bytes=done.bytes_after),
        bytes_before=done.bytes_before,
        bytes_after=done.bytes_after,
        layers=[
            schema.SelectiveCompressLayer(
                **facts(row.layer),
                method=row.method,
                states_after=row.states,
                predicted_error=row.predicted,
                projection_error=row.projection,
                scan_error=row.scan_error,
                output_error=row.out_error,
                refit_before=None if row.refit is None else row.refit.before**0.5,
                refit_after=None if row.refit is None else row.refit.after**0.5,
                bytes_before=row.bytes_before,
                bytes_after=row.bytes_after,
            )
            for row in done.layers
        ],
        skipped_files=list(done.skipped),
    )
