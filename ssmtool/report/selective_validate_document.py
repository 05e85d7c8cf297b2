"""The comparison of two selective models as a JSON document (schema.py)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ssmtool.report import schema
from ssmtool.report.documents import head, source
from ssmtool.report.selective_documents import token_facts

if TYPE_CHECKING:
    from ssmtool.pipeline.model import Model
    from ssmtool.pipeline.selective_validation import SelectiveValidation


def selective_validate_document(
    original: Model, reduced: Model, result: SelectiveValidation, options: Mapping[str, Any]
) -> schema.SelectiveValidateDocument:
    """What `ssmtool validate` measured on selective models."""
    language, limits = result.language, result.limits
    before, after = result.decoding or (None, None)
    return schema.SelectiveValidateDocument(
        **head("validate", source(original.checkpoint), options),
        reduced=source(reduced.checkpoint),
        passed=result.passed,
        reasons=list(result.reasons),
        tokens=token_facts(result.tokens),
        language=schema.LanguageFacts(
            predictions=language.predictions,
            loss_before=language.loss_original,
            loss_after=language.loss_reduced,
            perplexity_before=language.perplexity_original,
            perplexity_after=language.perplexity_reduced,
            perplexity_increase=language.increase,
            bits_before=language.bits_original,
            bits_after=language.bits_reduced,
            kl=language.kl,
            agreement=language.agreement,
        ),
        state_bytes_before=result.state_bytes[0],
        state_bytes_after=result.state_bytes[1],
        decoding_before=None if before is None else before.tokens_per_second,
        decoding_after=None if after is None else after.tokens_per_second,
        device=result.device,
        backend=result.backend,
        timed_sequences=result.timed[0],
        timed_length=result.timed[1],
        max_perplexity_increase=limits.perplexity_increase,
        max_kl=limits.kl,
        max_error=limits.error,
        compared_sequences=result.measured_sequences,
        layers=[
            schema.SelectiveValidateLayer(
                name=layer.name,
                states_before=layer.states[0],
                states_after=layer.states[1],
                predicted_error=None if math.isnan(layer.predicted) else layer.predicted,
                scan_error=layer.scan_error,
                output_error=layer.out_error,
                operation=layer.scan.operation,
                rounding_before=layer.scan.errors[0],
                rounding_after=layer.scan.errors[1],
                seconds_before=layer.scan.seconds[0],
                seconds_after=layer.scan.seconds[1],
                speedup=layer.scan.speedup,
                floor_before=None if layer.scan.floor is None else layer.scan.floor[0],
                floor_after=None if layer.scan.floor is None else layer.scan.floor[1],
            )
            for layer in result.layers
        ],
    )
