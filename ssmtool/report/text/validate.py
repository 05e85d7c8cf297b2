"""What validation measured, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from ssmtool.report.kept_states import kept_states
from ssmtool.report.text.numbers import plural, sci, seconds
from ssmtool.report.text.page import Page, verdict

if TYPE_CHECKING:
    from ssmtool.pipeline.model import Model
    from ssmtool.pipeline.validation import LayerValidation, Validation


def validate_text(original: Model, reduced: Model, result: Validation, terminal: bool | None = None) -> str:
    """Errors against bounds, agreement and speed per layer, and the verdict."""
    page = Page(terminal)
    page.line(f"{original.checkpoint.path} against {reduced.checkpoint.path}", "bold")
    page.line()
    inputs = [row.input for row in result.layers[0].inputs] if result.layers else []
    page.table(
        ("layer", "slots", "bound", "H∞ error", *inputs, ""), map(_errors, result.layers), left=(0, 4 + len(inputs))
    )
    page.line()
    page.paragraph(
        f"bound: certified, of the H∞ error; both relative to σ₁ of each system. {', '.join(inputs)}: error of the "
        f"output relative to the output, ‖y − yᵣ‖₂ / ‖y‖₂, for this input of {result.length} steps. Each the largest "
        "of a layer; ! marks what lies above the bound."
    )
    page.line()
    if kept := kept_states(result):
        for sentence in kept:
            page.paragraph(sentence, hang="  ")
        page.line()
    floors = any(layer.floor_original is not None for layer in result.layers)
    columns = ("layer", "scan", "scan\nreduced", "conv.", "conv.\nreduced", "time", "time\nreduced", "speed-up")
    page.table(
        (*columns, *(("of floor", "of floor\nreduced") if floors else ())),
        [_agreement(layer) + (_floors(layer) if floors else []) for layer in result.layers],
    )
    page.line()
    page.paragraph(
        "scan, conv.: largest relative deviation of the float32 scan and convolution from the float64 definition. "
        f"time: one scan of a layer on {result.device}, backend {result.backend}, best of several."
    )
    page.line()
    for layer in result.layers:
        if not layer.passed:
            page.paragraph(f"{layer.name}: {layer.reason}", hang="  ")
    count = sum(layer.passed for layer in result.layers)
    limit = "" if result.max_error is None else f" and below --max-error {result.max_error:g}"
    summary = f": {count} of {plural(len(result.layers), 'layer')} within the bound{limit}."
    page.line(("Passed" if result.passed else "Failed") + summary, "green" if result.passed else "bold red")
    return page.text()


def _errors(layer: LayerValidation) -> list[str | Text]:
    return [
        layer.name,
        f"{layer.slots[0]} → {layer.slots[1]}",
        sci(layer.bound),
        _marked(layer.hinf, layer.hinf_within),
        *(_marked(row.error, row.within) for row in layer.inputs),
        verdict(layer.passed, "ok", "FAILED"),
    ]


def _marked(value: float, within: bool) -> Text:
    return Text(sci(value)) if within else Text(f"{sci(value)} !", style="bold red")


def _floors(layer: LayerValidation) -> list[str]:
    return ["–" if share is None else f"{100 * share:.0f} %" for share in (layer.floor_original, layer.floor_reduced)]


def _agreement(layer: LayerValidation) -> list[str]:
    before, after = layer.seconds_original, layer.seconds_reduced
    return [
        layer.name,
        sci(layer.original.scan),
        sci(layer.reduced.scan),
        sci(layer.original.convolution),
        sci(layer.reduced.convolution),
        seconds(before),
        seconds(after),
        f"{before / after:.1f}×" if after > 0 else "–",
    ]
