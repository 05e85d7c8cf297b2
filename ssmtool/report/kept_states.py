"""What a validation compared of layers with states on or outside the unit circle, in words."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ssmtool.report.text.numbers import plural, sci

if TYPE_CHECKING:
    from ssmtool.pipeline.validation import LayerValidation, Validation


def kept_states(found: Validation) -> list[str]:
    """A sentence for every layer of which the stable part was compared."""
    return [_sentence(layer) for layer in found.layers if layer.stable_part]


def _sentence(layer: LayerValidation) -> str:
    before, after = layer.unstable
    count = plural(before, "state") if before == after else f"{before} → {after} states"
    if math.isinf(layer.hinf):
        same = "not the same in both"
    elif layer.unstable_deviation:
        same = f"the same in both up to {sci(layer.unstable_deviation)}"
    else:
        same = "the same in both"
    return (
        f"{layer.name}: {count} on or outside the unit circle, {same}. Errors, outputs and times are those of the "
        "stable part."
    )
