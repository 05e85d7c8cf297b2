"""The comparison of two selective models, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssmtool.report.text.numbers import plural, sci, seconds, size
from ssmtool.report.text.page import Page

if TYPE_CHECKING:
    from ssmtool.pipeline.model import Model
    from ssmtool.pipeline.selective_validation import LayerDifference, SelectiveValidation


def selective_validate_text(
    original: Model, reduced: Model, result: SelectiveValidation, terminal: bool | None = None
) -> str:
    """Both models side by side, the distance of their predictions, the error of every layer, and the verdict."""
    page, language = Page(terminal), result.language
    page.line(f"{original.checkpoint.path} against {reduced.checkpoint.path}", "bold")
    page.line(f"on {result.tokens.description}, {plural(language.predictions, 'prediction')}")
    page.line()
    rows = [
        ["perplexity", f"{language.perplexity_original:.4f}", f"{language.perplexity_reduced:.4f}", _signed(result)],
        ["bits per token", f"{language.bits_original:.4f}", f"{language.bits_reduced:.4f}", ""],
        ["state", *map(size, result.state_bytes), _ratio(*result.state_bytes)],
    ]
    if result.decoding is not None:
        before, after = (speed.tokens_per_second for speed in result.decoding)
        rows.append(["decoding, tokens/s", f"{before:.0f}", f"{after:.0f}", f"{after / before:.2f}×"])
    page.table(("", "original", "reduced", ""), rows)
    page.line()
    page.line(f"KL divergence {language.kl:.3g} nats, same likeliest token in {100 * language.agreement:.2f} %")
    page.line()
    page.table(("layer", "states", "predicted", "scan", "output"), map(_layer, result.layers))
    page.line()
    floors = any(layer.scan.floor is not None for layer in result.layers)
    columns = ("layer", "operation", "rounding", "rounding\nreduced", "time", "time\nreduced", "speed-up")
    page.table(
        (*columns, *(("of floor", "of floor\nreduced") if floors else ())),
        [_scan(layer, floors) for layer in result.layers],
        left=(0, 1),
    )
    page.line()
    page.paragraph(
        "KL divergence: mean over all next-token distributions of Σ p log(p / q), p the original's. Relative errors of "
        f"a layer, with the original's own stream as input, on {plural(result.measured_sequences, 'sequence')}. "
        "predicted: of the weighted scan output, as compress recorded it, before any refit. scan: the same, measured. "
        "output: of what the layer adds to the residual stream."
    )
    page.paragraph(
        "rounding: relative deviation of the scan from its definition in float64. time: one scan of "
        f"{plural(result.timed[0], 'sequence')} of {plural(result.timed[1], 'step')} on {result.device}, backend "
        f"{result.backend}."
    )
    timed = f"decoding: one sequence, greedy, measured on {result.device} here." if result.decoding else ""
    page.paragraph(
        f"state: what the selective layers carry from token to token, float32, one sequence. {timed}".rstrip()
    )
    page.line()
    for reason in result.reasons:
        page.paragraph(reason, hang="  ")
    page.line(*_verdict(result))
    return page.text()


def _layer(layer: LayerDifference) -> list[str]:
    before, after = layer.states
    return [layer.name, f"{before} → {after}", sci(layer.predicted), sci(layer.scan_error), sci(layer.out_error)]


def _scan(layer: LayerDifference, floors: bool) -> list[str]:
    scan = layer.scan
    row = [layer.name, scan.operation, *map(sci, scan.errors), *map(seconds, scan.seconds), f"{scan.speedup:.1f}×"]
    return row + ([f"{100 * share:.0f} %" for share in scan.floor or ()] if floors else [])


def _signed(result: SelectiveValidation) -> str:
    return f"{result.language.increase:+.2f} %"


def _ratio(before: int, after: int) -> str:
    return f"{after / before:.2f}×" if before else ""


def _verdict(result: SelectiveValidation) -> tuple[str, str]:
    limits = result.limits
    given = {
        "--max-perplexity-increase": limits.perplexity_increase,
        "--max-kl": limits.kl,
        "--max-error": limits.error,
    }
    asked = ", ".join(f"{option} {value:g}" for option, value in given.items() if value is not None)
    if not asked:
        return "No limit was given.", ""
    return (f"Passed: {asked}.", "green") if result.passed else (f"Failed: {asked}.", "bold red")
