"""ssmtool report: a model on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssmtool.cli._command_line import typed
from ssmtool.cli._options import (
    Backend,
    BackendOption,
    CacheOption,
    Device,
    DeviceOption,
    FamilyOption,
    JobsOption,
    LayerOption,
    ModelArgument,
    NoCacheOption,
    checked_device,
    chosen_cache,
    examples,
    quiet_option,
)
from ssmtool.cli._output import checked_file, emit
from ssmtool.cli._progress import Bar
from ssmtool.cli._tokens import (
    BytesOption,
    LengthOption,
    SeedOption,
    SelfOption,
    SequencesOption,
    TextOption,
    TokensOption,
    token_source,
)

SUFFIXES = (".html", ".md", ".pdf")

EXAMPLES = examples(
    "ssmtool report model.safetensors -o report.html",
    "ssmtool report model.safetensors --measure 8,16,32 -o report.html",
    "ssmtool report model.safetensors model-rank16.safetensors -o report.pdf",
    "ssmtool report mamba-130m --tokens held-out.npy -o report.html",
)


def command(
    context: typer.Context,
    model: ModelArgument,
    reduced: Annotated[
        str | None, typer.Argument(metavar="REDUCED", help="A reduction of it to compare with.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="File to write: .html, .md or .pdf. An existing one is replaced."
        ),
    ] = None,
    measure: Annotated[
        list[str] | None,
        typer.Option(
            "--measure",
            metavar="R,R,...",
            help="Linear layers: also measure the error of balanced truncation to these ranks; writes no checkpoint.",
        ),
    ] = None,
    tokens: TokensOption = None,
    text: TextOption = None,
    as_bytes: BytesOption = False,
    sampled: SelfOption = None,
    length: LengthOption = None,
    sequences: SequencesOption = None,
    seed: SeedOption = 0,
    timings: Annotated[
        bool, typer.Option("--timings/--no-timings", help="With REDUCED: run and time the scans of both models.")
    ] = True,
    layers: LayerOption = None,
    title: Annotated[
        str | None, typer.Option("--title", metavar="TEXT", help="Heading.", show_default="the file's name")
    ] = None,
    family: FamilyOption = None,
    device: DeviceOption = Device.auto,
    backend: BackendOption = Backend.auto,
    cache: CacheOption = None,
    no_cache: NoCacheOption = False,
    jobs: JobsOption = 1,
    quiet: Annotated[bool, quiet_option("nothing, only write the file")] = False,
) -> None:
    """Write a page about a model: HTML, Markdown or PDF.

    A summary in words, the decay of the Hankel singular values with a slider for the rank, poles, time scales and
    responses, the sections of diagnose, and with REDUCED errors and kernel timings side by side. The HTML file is
    self-contained and loads nothing. Selective layers (Mamba) are measured on --tokens, --text or --self.
    """
    from ssmtool.errors import UsageError

    if output is None:
        raise UsageError("no file is named", remedy="Give -o report.html, .md or .pdf")
    checked_file(output, "-o", SUFFIXES)
    ranks = measured_ranks(measure)
    where, kept = checked_device(device), chosen_cache(cache, no_cache)
    source = token_source(tokens, text, as_bytes, sampled, length, sequences, seed)
    from ssmtool.pipeline.model import load
    from ssmtool.pipeline.portrait import portrait
    from ssmtool.report.overview import save_report, view
    from ssmtool.report.text.numbers import size

    opened = load(model, family=family)
    second = None if reduced is None else load(reduced, family=family)
    with Bar(quiet) as bar:
        found = portrait(
            opened,
            second,
            layers=layers,
            ranks=ranks,
            source=source,
            timings=timings,
            device=where,
            backend=backend.value,
            cache=kept,
            jobs=jobs,
            step=bar.step,
        )
    written = save_report(view(found, typed(context), title or ""), output)
    if not quiet:
        emit(f"Wrote {output} ({size(written)})")


def measured_ranks(given: list[str] | None) -> list[int]:
    """The numbers of --measure, ascending. Raises UsageError."""
    from ssmtool.errors import UsageError

    found = set()
    for piece in ",".join(given or ()).split(","):
        if not piece.strip():
            continue
        if not piece.strip().isascii() or not piece.strip().isdigit() or int(piece) < 1:
            raise UsageError(f"--measure {piece.strip()!r} is not a number of states", remedy="Give e.g. 8,16,32")
        found.add(int(piece))
    return sorted(found)
