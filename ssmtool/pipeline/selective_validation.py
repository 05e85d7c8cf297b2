"""What `validate` finds out about selective models."""

from __future__ import annotations

from dataclasses import dataclass

from ssmtool.pipeline.language import Decoding, LanguageComparison
from ssmtool.pipeline.selective_scans import ScanCheck
from ssmtool.pipeline.tokens import Tokens


@dataclass(frozen=True)
class LayerDifference:
    """One layer, the original's own stream given to both. Errors are relative.

    Attributes:
        name: layer name.
        states: per channel, before and after.
        predicted: of the weighted scan output, as recorded by `compress`; NaN without a record.
        scan_error: of the weighted scan output, measured.
        out_error: of what the layer adds to the residual stream, measured.
        scan: the scan alone, on a few of the sequences.
    """

    name: str
    states: tuple[int, int]
    predicted: float
    scan_error: float
    out_error: float
    scan: ScanCheck


@dataclass(frozen=True)
class Limits:
    """Above which a validation fails; None is no limit.

    Attributes:
        perplexity_increase: in percent.
        kl: nats per token.
        error: relative error of what a layer adds.
    """

    perplexity_increase: float | None = None
    kl: float | None = None
    error: float | None = None


@dataclass(frozen=True)
class SelectiveValidation:
    """Result of `validate_selective`.

    Attributes:
        layers: those selected, in the original's order.
        tokens: what both models read.
        language: how they predict it.
        state_bytes: what the selective layers carry from token to token for one sequence in float32, state and
            convolution, before and after.
        decoding: speed before and after; None where the models are not run by the project's own code.
        measured_sequences: on which the layers were compared.
        limits: what was asked for.
        device: where the models ran.
        backend: what ran their scans, of those in `ssmtool_kernels.backends`.
        timed: (sequences, steps) of the inputs that the scans were timed on.
    """

    layers: tuple[LayerDifference, ...]
    tokens: Tokens
    language: LanguageComparison
    state_bytes: tuple[int, int]
    decoding: tuple[Decoding, Decoding] | None
    measured_sequences: int
    limits: Limits
    device: str
    backend: str
    timed: tuple[int, int]

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it failed, a line each; empty if it passed."""
        found = []
        limits, language = self.limits, self.language
        if limits.perplexity_increase is not None and not language.increase <= limits.perplexity_increase:
            found.append(
                f"perplexity rises by {language.increase:.3g} %, more than --max-perplexity-increase "
                f"{limits.perplexity_increase:g}"
            )
        if limits.kl is not None and not language.kl <= limits.kl:
            found.append(f"KL divergence {language.kl:.3g} exceeds --max-kl {limits.kl:g}")
        if limits.error is not None:
            found += [
                f"{layer.name}: output error {layer.out_error:.3g} exceeds --max-error {limits.error:g}"
                for layer in self.layers
                if not layer.out_error <= limits.error
            ]
        return tuple(found)

    @property
    def passed(self) -> bool:
        return not self.reasons
