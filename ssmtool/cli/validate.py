"""ssmtool validate: does the reduced checkpoint do what the original does, within its bound?"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssmtool.cli._options import (
    CHECKPOINT,
    Backend,
    BackendOption,
    Device,
    DeviceOption,
    FamilyOption,
    JsonOption,
    LayerOption,
    checked_device,
    examples,
    quiet_option,
)
from ssmtool.cli._output import emit
from ssmtool.cli._progress import Bar
from ssmtool.cli._tokens import BytesOption, SelfOption, SequencesOption, TextOption, TokensOption, token_source
from ssmtool.shown import one_line

if TYPE_CHECKING:
    from ssmtool.pipeline.model import Model
    from ssmtool.pipeline.tokens import TokenSource

EXAMPLES = examples(
    "ssmtool validate model.safetensors model-rank16.safetensors",
    "ssmtool validate model.safetensors model-rank16.safetensors --max-error 0.01",
    "ssmtool validate model.safetensors model-rank16.safetensors --inputs recorded.npy",
    "ssmtool validate mamba2-370m mamba2-370m-rank64 --tokens heldout.npy --max-perplexity-increase 1",
)


def command(
    original: Annotated[
        str, typer.Argument(metavar="ORIGINAL", help=f"Checkpoint before: {CHECKPOINT}.", show_default=False)
    ],
    reduced: Annotated[
        str, typer.Argument(metavar="REDUCED", help="Checkpoint after, of the same kinds.", show_default=False)
    ],
    inputs: Annotated[
        Path | None,
        typer.Option(
            "--inputs",
            metavar="FILE.npy",
            help="Drive the layers with these inputs instead: (steps), (steps, channels) "
            "or (sequences, steps, channels).",
        ),
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(
            "--length",
            metavar="N",
            min=1,
            help="Time steps of the noise, impulse and step inputs; tokens per sequence of --text and --self.",
            show_default="1024; tokens 256",
        ),
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option(
            "--max-error",
            metavar="X",
            help="Also fail when a layer's output error, relative to its output, exceeds this.",
        ),
    ] = None,
    max_perplexity_increase: Annotated[
        float | None,
        typer.Option(
            "--max-perplexity-increase",
            metavar="PERCENT",
            help="Selective models: fail when the perplexity rises by more.",
        ),
    ] = None,
    max_kl: Annotated[
        float | None,
        typer.Option(
            "--max-kl",
            metavar="NATS",
            help="Selective models: fail when the mean KL divergence of the next-token distributions exceeds this.",
        ),
    ] = None,
    tokens: TokensOption = None,
    text: TextOption = None,
    as_bytes: BytesOption = False,
    sampled: SelfOption = None,
    sequences: SequencesOption = None,
    layers: LayerOption = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Of the noise, and of --self.")] = 0,
    family: FamilyOption = None,
    device: DeviceOption = Device.auto,
    backend: BackendOption = Backend.auto,
    json: JsonOption = False,
    quiet: Annotated[bool, quiet_option("nothing, only the reasons of a failure on standard error")] = False,
) -> None:
    """Check a reduced checkpoint against its original.

    Runs both side by side and checks the error of every layer against its bound.

    Exit code 1 when a layer exceeds its bound or --max-error. Also measured: how well the float32 scan and convolution
    agree with a float64 reference, and how long the scan takes before and after.

    Selective models (Mamba) are compared as language models on --tokens, --text or --self: perplexity, KL divergence,
    and the error of every layer. Exit code 1 when one of the limits that are given is exceeded.
    """
    where = checked_device(device)
    limits = {"max_error": max_error, "max_perplexity_increase": max_perplexity_increase, "max_kl": max_kl}
    for name, value in limits.items():
        checked_limit(name, value)
    source = token_source(tokens, text, as_bytes, sampled, length, sequences, seed)
    from ssmtool.errors import UsageError
    from ssmtool.pipeline.model import load
    from ssmtool.pipeline.validate import validate

    before, after = load(original, family=family), load(reduced, family=family)
    if not any(layer.lti for layer in before.select(layers)):
        if inputs is not None:
            raise UsageError("--inputs is for linear time-invariant layers", remedy="Give --tokens FILE")
        given = {"tokens": tokens, "text": text, "bytes": as_bytes, "self": sampled, "sequences": sequences}
        rest = {"length": length, "layers": layers, "seed": seed, "family": family, "device": device.value}
        rest["backend"] = backend.value
        document = {**given, **limits, **rest} if json else None
        selective_validate(before, after, source, layers, limits, where, backend.value, document, quiet)
        return
    if source is not None or max_perplexity_increase is not None or max_kl is not None:
        raise UsageError(
            "tokens, --max-perplexity-increase and --max-kl are for selective layers, and none is selected alone"
        )
    length = 1024 if length is None else length
    with Bar(quiet) as bar:
        result = validate(
            before,
            after,
            length=length,
            inputs=inputs,
            max_error=max_error,
            layers=layers,
            seed=seed,
            device=where,
            backend=backend.value,
            progress=bar.layer,
        )
    if json:
        from ssmtool.report.documents import validate_document
        from ssmtool.report.json_text import json_text

        options = {"inputs": inputs, "length": length, "max_error": max_error, "layers": layers, "seed": seed}
        options |= {"family": family, "device": device.value, "backend": backend.value}
        emit(json_text(validate_document(before, after, result, options)))
    elif quiet:
        for layer in result.layers:
            if not layer.passed:
                print(f"ssmtool: {one_line(f'{layer.name}: {layer.reason}')}", file=sys.stderr)
    else:
        from ssmtool.report.text.validate import validate_text

        emit(validate_text(before, after, result))
    if not result.passed:
        raise typer.Exit(1)


def checked_limit(name: str, value: float | None) -> None:
    """Raises UsageError for a limit that is no number from 0 up."""
    from ssmtool.errors import UsageError

    if value is not None and not 0 <= value < float("inf"):
        raise UsageError(f"--{name.replace('_', '-')} {value:g} is not a number from 0 up")


def selective_validate(
    original: Model,
    reduced: Model,
    source: TokenSource | None,
    layers: list[str] | None,
    limits: Mapping[str, float | None],
    device: str,
    backend: str,
    document: Mapping[str, Any] | None,
    quiet: bool,
) -> None:
    """Compare selective models. Args: document: options for JSON, None for text.

    Raises:
        UsageError: no tokens.
    """
    from ssmtool.errors import UsageError

    if source is None:
        raise UsageError(
            "selective models are compared on tokens, and none are given",
            remedy="Give --tokens FILE, --text FILE, or --self N to let the original sample its own",
        )
    from ssmtool.pipeline.selective_validate import validate_selective
    from ssmtool.pipeline.selective_validation import Limits

    with Bar(quiet) as bar:
        result = validate_selective(
            original,
            reduced,
            source,
            limits=Limits(limits["max_perplexity_increase"], limits["max_kl"], limits["max_error"]),
            layers=layers,
            device=device,
            backend=backend,
            step=bar.step,
        )
    if document is not None:
        from ssmtool.report.json_text import json_text
        from ssmtool.report.selective_validate_document import selective_validate_document

        emit(json_text(selective_validate_document(original, reduced, result, document)))
    elif quiet:
        for reason in result.reasons:
            print(f"ssmtool: {one_line(reason)}", file=sys.stderr)
    else:
        from ssmtool.report.text.selective_validate import selective_validate_text

        emit(selective_validate_text(original, reduced, result))
    if not result.passed:
        raise typer.Exit(1)
