"""ssmtool diagnose: what a model's layers do, and what that means."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssmtool import plugins
from ssmtool.cli import _complete
from ssmtool.cli._options import (
    Device,
    DeviceOption,
    FamilyOption,
    JsonOption,
    LayerOption,
    ModelArgument,
    checked_device,
    examples,
    quiet_option,
)
from ssmtool.cli._output import emit
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

if TYPE_CHECKING:
    from ssmtool.pipeline.diagnose import Diagnosis
    from ssmtool.pipeline.model import Model
    from ssmtool.pipeline.tokens import TokenSource
    from ssmtool.training.evaluate import Evaluation

ANALYSES = "ssmtool.analyses"
SUFFIXES = (".svg", ".png", ".pdf")

EXAMPLES = examples(
    "ssmtool diagnose digits-s4d.safetensors --task digits",
    "ssmtool diagnose mamba-130m --tokens held-out.npy --plot pictures/",
    "ssmtool diagnose mamba-130m --section memory --self 32 --json | jq .sections.memory.verdicts",
)


def _sections(incomplete: str) -> list[str]:
    return [name for name in plugins.names(ANALYSES) if name.startswith(incomplete)]


def command(
    model: ModelArgument,
    section: Annotated[
        list[str] | None,
        typer.Option(
            "--section",
            metavar="NAME",
            autocompletion=_sections,
            help=f"Only this section; may be repeated. Sections: {', '.join(plugins.names(ANALYSES))}. Default: all.",
        ),
    ] = None,
    layers: LayerOption = None,
    tokens: TokensOption = None,
    text: TextOption = None,
    as_bytes: BytesOption = False,
    sampled: SelfOption = None,
    length: LengthOption = None,
    sequences: SequencesOption = None,
    seed: SeedOption = 0,
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            metavar="NAME",
            autocompletion=_complete.tasks,
            help=f"Reference models: report the accuracy too: {', '.join(plugins.names(_complete.TASKS))}.",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="PATH",
            help="Draw every section into PATH/<section>.svg if PATH is a folder, else into PATH (.svg, .png or .pdf), "
            "with the section's name before the suffix if there are several.",
        ),
    ] = None,
    family: FamilyOption = None,
    device: DeviceOption = Device.auto,
    json: JsonOption = False,
    quiet: Annotated[bool, quiet_option("nothing, only write the files asked for")] = False,
) -> None:
    """Say what a model's state-space layers do, and what it means.

    Time scales, memory in use, parametrisation, state tracking, token dynamics and relevance, one section each. What
    can be read off the weights is always shown. What selective layers (Mamba) make of tokens is measured on at
    most 64 sequences of 256 tokens of --tokens, --text or --self. Every number is defined in docs/diagnose.md.
    """
    source = token_source(tokens, text, as_bytes, sampled, length, sequences, seed)
    where = checked_device(device)
    from ssmtool.pipeline.diagnose import known

    plots = _plot_files(plot, known(section))
    from ssmtool.pipeline.model import load

    opened = load(model, family=family)
    with Bar(quiet) as bar:
        found = _run(opened, section, layers, source, where, bar)
        accuracy = None if task is None else _accuracy(opened, task, where)
    written = _draw(found, plots, opened.checkpoint.path.name)
    if json:
        from ssmtool.report.diagnose_document import diagnose_document
        from ssmtool.report.json_text import json_text

        options = {
            "section": section, "layers": layers, "tokens": tokens, "text": text, "bytes": as_bytes, "self": sampled,
            "length": length, "sequences": sequences, "seed": seed, "task": task, "plot": plot, "family": family,
            "device": device.value,
        }  # fmt: skip
        emit(json_text(diagnose_document(opened, found, accuracy, options)))
    elif not quiet:
        from ssmtool.report.text.diagnose import diagnose_text

        emit(diagnose_text(opened, found, accuracy, written))


def _run(
    model: Model, section: list[str] | None, layers: list[str] | None, source: TokenSource | None, device: str, bar: Bar
) -> Diagnosis:
    from ssmtool.pipeline.diagnose import diagnose

    if source is None:
        return diagnose(model, section, layers=layers, step=bar.step)
    from ssmtool.pipeline.runner import open_runner
    from ssmtool.pipeline.tokens import read_tokens

    runner = open_runner(model, device)
    read = read_tokens(source, model, runner)
    return diagnose(model, section, layers=layers, runner=runner, tokens=read, step=bar.step)


def _accuracy(model: Model, task: str, device: str) -> Evaluation:
    import torch

    from ssmtool.training.evaluate import evaluate

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return evaluate(model.checkpoint, task, device)


def _plot_files(path: Path | None, sections: tuple[str, ...]) -> dict[str, Path]:
    """Section -> file; looked at before the work starts. Raises UsageError for a place that cannot be written to."""
    from ssmtool.cli._output import checked_file
    from ssmtool.errors import UsageError

    if path is None:
        return {}
    if path.is_dir():
        return {name: path / f"{name}.svg" for name in sections}
    if not path.suffix:
        raise UsageError("is no folder", where=f"--plot {path}", remedy=f"Create it: mkdir -p {path}")
    checked_file(path, "--plot", SUFFIXES)
    if len(sections) == 1:
        return {sections[0]: path}
    return {name: path.with_name(f"{path.stem}-{name}{path.suffix}") for name in sections}


def _draw(found: Diagnosis, files: dict[str, Path], name: str) -> list[Path]:
    """Write the pictures; sections without anything to draw have none."""
    written = []
    for section, file in files.items():
        panels = found.sections[section].panels()
        if panels:
            from ssmtool.report.section_plot import save_section

            save_section(panels, file, f"{name}: {section.replace('_', ' ')}")
            written.append(file)
    return written
