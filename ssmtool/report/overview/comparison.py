"""Original against reduced: bounds, errors, predictions and kernel timings, as `validate` measured them."""

from __future__ import annotations

import math

from ssmtool.pipeline.portrait import Portrait
from ssmtool.pipeline.selective_validation import SelectiveValidation
from ssmtool.pipeline.validation import Validation
from ssmtool.report.kept_states import kept_states
from ssmtool.report.overview.chart import Chart, Series, span
from ssmtool.report.overview.view import Cell, Grid, Part, grid
from ssmtool.report.text.numbers import percent, sci, seconds, size


def comparison_part(found: Portrait) -> Part | None:
    """The section; None without a reduced model."""
    if found.reduced is None:
        return None
    grids: list[Grid] = [_sizes(found)]
    points, pictures = [], []
    if found.validation is not None:
        grids += [_errors(found.validation), _timings(found.validation)]
        points += kept_states(found.validation)
        points += [f"{layer.name}: {layer.reason}." for layer in found.validation.layers if layer.reason]
        pictures.append(_speed([(x.name, x.seconds_original, x.seconds_reduced) for x in found.validation.layers]))
    if found.language is not None:
        grids += _language(found.language)
        points += [f"{reason}." for reason in found.language.reasons]
        pictures.append(_speed([(x.name, *x.scan.seconds) for x in found.language.layers]))
    shown = tuple(picture for picture in pictures if picture is not None)
    return Part("comparison", "Original against reduced", (), tuple(points), tuple(grids), shown)


def _number(value: float | None) -> Cell:
    return Cell("–") if value is None or math.isnan(value) else Cell(sci(value), value)


def _sizes(found: Portrait) -> Grid:
    rows = [
        (
            row.layer.name,
            Cell(f"{row.layer.slots} → {row.partner.slots}", float(row.partner.slots)),
            Cell(size(row.bytes), float(row.bytes)),
            Cell(size(row.partner.bytes), float(row.partner.bytes)),
            Cell(percent(row.partner.bytes, row.bytes), row.partner.bytes / max(row.bytes, 1)),
            _number(row.partner.error),
            _number(row.partner.bound),
        )
        for row in found.layers
        if row.partner is not None
    ]
    columns = ("layer", "slots", "before", "after", "share", "H∞ error", "bound")
    note = "Slots: stored modes per system, or states per channel of a selective layer."
    if all(row.partner is None or row.partner.error is None for row in found.layers):
        return grid("Size", columns[:5], [row[:5] for row in rows], (0,), note)
    note += " H∞ error and certified bound relative to σ₁, the largest of a layer."
    return grid("Size and error", columns, rows, (0,), note)


def _errors(found: Validation) -> Grid:
    inputs = [row.input for row in found.layers[0].inputs]
    rows = [
        (
            layer.name,
            _number(layer.bound),
            _number(layer.hinf),
            *(_number(row.error) for row in layer.inputs),
            "within" if layer.passed else "FAILED",
        )
        for layer in found.layers
    ]
    note = (
        f"Bound: certified, of the H∞ error; both relative to σ₁. {', '.join(inputs)}: error of the output relative to "
        f"the output for this input of {found.length} steps. Each the largest of a layer."
    )
    return grid("Outputs", ("layer", "bound", "H∞ error", *inputs, ""), rows, (0, 3 + len(inputs)), note)


def _timings(found: Validation) -> Grid:
    rows = [
        (
            layer.name,
            layer.operation,
            Cell(seconds(layer.seconds_original), layer.seconds_original),
            Cell(seconds(layer.seconds_reduced), layer.seconds_reduced),
            _speedup(layer.seconds_original, layer.seconds_reduced),
            _number(layer.original.scan),
            _number(layer.reduced.scan),
            _number(layer.original.convolution),
            _number(layer.reduced.convolution),
        )
        for layer in found.layers
    ]
    columns = (
        "layer", "kernel", "time before", "time after", "speed-up", "scan before", "scan after", "conv. before",
        "conv. after",
    )  # fmt: skip
    note = (
        f"One scan of a layer on {found.device}, backend {found.backend}, {found.length} steps, best of several. Scan, "
        "conv.: largest relative deviation of the float32 scan and convolution from the float64 definition."
    )
    return grid("Kernel timings", columns, rows, (0, 1), note)


def _speedup(before: float, after: float) -> Cell:
    return Cell(f"{before / after:.2f}×", before / after) if after > 0 else Cell("–")


def _language(found: SelectiveValidation) -> list[Grid]:
    language = found.language
    before, after = found.state_bytes
    both: list[tuple[str | Cell | float, ...]] = [
        ("perplexity", language.perplexity_original, language.perplexity_reduced),
        ("loss, nats per token", language.loss_original, language.loss_reduced),
        ("state of one sequence", Cell(size(before), float(before)), Cell(size(after), float(after))),
    ]
    if found.decoding is not None:
        both.append(("decoding, tokens per second", *(speed.tokens_per_second for speed in found.decoding)))
    whole = grid(
        "Predictions", ("", "before", "after"), both, (0,),
        f"{language.predictions:,} next tokens of {found.tokens.description}. KL divergence {language.kl:.3g} nats, "
        f"agreement {percent(language.agreement, 1)}.",
    )  # fmt: skip
    rows = [
        (
            layer.name,
            Cell(f"{layer.states[0]} → {layer.states[1]}", float(layer.states[1])),
            _number(layer.predicted),
            _number(layer.scan_error),
            _number(layer.out_error),
            layer.scan.operation,
            Cell(seconds(layer.scan.seconds[0]), layer.scan.seconds[0]),
            Cell(seconds(layer.scan.seconds[1]), layer.scan.seconds[1]),
            _speedup(*layer.scan.seconds),
        )
        for layer in found.layers
    ]
    columns = ("layer", "states", "predicted", "scan", "output", "kernel", "time before", "time after", "speed-up")
    note = (
        "Relative errors on the original's own stream: predicted by compress, of the weighted scan output, of what the "
        f"layer adds. Times: the scan alone on {found.device}, backend {found.backend}, {found.timed[0]} × "
        f"{found.timed[1]} tokens."
    )
    return [whole, grid("Layers and kernel timings", columns, rows, (0, 5), note)]


def _speed(times: list[tuple[str, float, float]]) -> Chart | None:
    """Time of one scan by depth, before and after."""
    if len(times) < 2 or not any(before > 0 for _, before, _ in times):
        return None
    x = tuple(float(i) for i in range(len(times)))
    both = [tuple(1e3 * value for value in column) for column in list(zip(*times, strict=True))[1:]]
    series = [
        mark
        for tone, (label, y) in enumerate(zip(("original", "reduced"), both, strict=True))
        for mark in (Series("line", x, y, label, tone, dash=tone), Series("point", x, y, "", tone))
    ]
    alt = f"Time of one scan in {len(times)} layers, original and reduced"
    return Chart(
        "Time of a scan", alt, "layer", "ms", tuple(series), span(x, pad=0.06), (0, span([*both[0], *both[1]])[1])
    )
