"""ssmtool plot: one picture for a paper."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ssmtool.cli._options import (
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

SUFFIXES = (".svg", ".pdf", ".png")

EXAMPLES = examples(
    "ssmtool plot model.safetensors --kind sigma -o sigma.pdf",
    "ssmtool plot model.safetensors model-rank16.safetensors --kind frequency -o G.svg",
    "ssmtool plot model.safetensors --kind heatmap --style ggplot --column single -o heat.pdf",
    "ssmtool plot mamba-130m --kind tokens --tokens held-out.npy -o tokens.pdf",
)


class Kind(str, Enum):
    """What is drawn."""

    sigma = "sigma"
    poles = "poles"
    impulse = "impulse"
    frequency = "frequency"
    heatmap = "heatmap"
    timescales = "timescales"
    tokens = "tokens"


class Width(str, Enum):
    """Columns of a printed page."""

    single = "single"
    double = "double"


INCHES = {Width.single: 3.4, Width.double: 7.0}


def command(
    model: ModelArgument,
    reduced: Annotated[
        str | None, typer.Argument(metavar="REDUCED", help="A reduction of it to draw beside it.", show_default=False)
    ] = None,
    kind: Annotated[Kind | None, typer.Option("--kind", help="What to draw.", show_default=False)] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="File to write: .svg, .pdf or .png. An existing one is replaced."
        ),
    ] = None,
    layers: LayerOption = None,
    system: Annotated[
        list[int] | None,
        typer.Option(
            "--system",
            metavar="N",
            min=0,
            help="Of impulse and frequency: the responses of this system, from 0; may be repeated.",
            show_default="largest, median and smallest sigma_1",
        ),
    ] = None,
    column: Annotated[Width, typer.Option("--column", help="Width: 3.4 or 7.0 inches.")] = Width.double,
    width: Annotated[
        float | None, typer.Option("--width", metavar="INCHES", help="Width, in place of --column.", show_default=False)
    ] = None,
    height: Annotated[
        float | None,
        typer.Option("--height", metavar="INCHES", help="Height.", show_default="what the picture needs"),
    ] = None,
    style: Annotated[
        list[str] | None,
        typer.Option("--style", metavar="NAME|FILE", help="Matplotlib style sheet; may be repeated, the last wins."),
    ] = None,
    tokens: TokensOption = None,
    text: TextOption = None,
    as_bytes: BytesOption = False,
    sampled: SelfOption = None,
    length: LengthOption = None,
    sequences: SequencesOption = None,
    seed: SeedOption = 0,
    title: Annotated[str | None, typer.Option("--title", metavar="TEXT", help="Above the picture.")] = None,
    family: FamilyOption = None,
    device: DeviceOption = Device.auto,
    cache: CacheOption = None,
    no_cache: NoCacheOption = False,
    jobs: JobsOption = 1,
    quiet: Annotated[bool, quiet_option("nothing, only write the file")] = False,
) -> None:
    """Draw one picture for a paper: SVG, PDF or PNG.

    The same input, options and style give the same bytes. Colours can be told apart with every common colour blindness;
    what your matplotlibrc and --style say comes before this program's own look.
    """
    from ssmtool.errors import UsageError

    if kind is None:
        raise UsageError("it is not said what to draw", remedy=f"Give --kind {'|'.join(k.value for k in Kind)}")
    if output is None:
        raise UsageError("no file is named", remedy="Give -o FILE: .svg, .pdf or .png")
    checked_file(output, "-o", SUFFIXES)
    for name, value in (("--width", width), ("--height", height)):
        if value is not None and not 0.5 <= value <= 50:
            raise UsageError(f"{name} {value:g} is not between 0.5 and 50 inches")
    where, kept = checked_device(device), chosen_cache(cache, no_cache)
    source = token_source(tokens, text, as_bytes, sampled, length, sequences, seed)
    from ssmtool.pipeline.model import load
    from ssmtool.pipeline.portrait import portrait
    from ssmtool.report.drawing import drawing, rendered
    from ssmtool.report.overview.figures import draw
    from ssmtool.report.overview.kinds import NEEDS, pictures
    from ssmtool.report.overview.save import replace_file

    opened = load(model, family=family)
    second = None if reduced is None else load(reduced, family=family)
    parts, sections = NEEDS[kind.value]
    with drawing(style or ()):  # a wrong style is an error before the work
        with Bar(quiet) as bar:
            found = portrait(
                opened,
                second,
                layers=layers,
                systems=system,
                source=source,
                parts=parts,
                sections=sections or None,
                device=where,
                cache=kept,
                jobs=jobs,
                step=bar.step,
            )
        wide = width or INCHES[column]
        figure = draw(pictures(found, kind.value), wide, height, 1 if wide < 5 else 2, title or "")
        replace_file(output, rendered(figure, output.suffix))
    if not quiet:
        emit(f"Wrote {output}")
