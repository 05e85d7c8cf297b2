"""ssmtool hsv: the Hankel singular values of every layer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssmtool.cli._options import (
    AddressOption,
    CacheOption,
    Device,
    DeviceOption,
    EngineName,
    EngineOption,
    FamilyOption,
    JobsOption,
    JsonOption,
    LayerOption,
    ModelArgument,
    NoCacheOption,
    checked_device,
    chosen_cache,
    chosen_engine,
    examples,
    not_for_selective,
    quiet_option,
)
from ssmtool.cli._output import checked_file, emit
from ssmtool.cli._progress import Bar
from ssmtool.cli._selective import selective_hsv
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

EXAMPLES = examples(
    "ssmtool hsv model.safetensors",
    "ssmtool hsv mamba-130m --tokens calibration.npy --plot hsv.svg",
    "ssmtool hsv mamba-130m --self 64",
    "ssmtool hsv model.safetensors --plot hsv.svg --csv hsv.csv",
    "ssmtool hsv model.safetensors --layer layers.0 --json | jq '.layers[0].sigma[0]'",
)


def command(
    model: ModelArgument,
    layers: LayerOption = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot", metavar="FILE", help="Draw the values and the error bounds of every layer: .svg, .png or .pdf."
        ),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE", help="Write every value, one a row: layer, system, k, sigma, relative."),
    ] = None,
    tokens: TokensOption = None,
    text: TextOption = None,
    as_bytes: BytesOption = False,
    sampled: SelfOption = None,
    length: LengthOption = None,
    sequences: SequencesOption = None,
    seed: SeedOption = 0,
    family: FamilyOption = None,
    device: DeviceOption = Device.auto,
    jobs: JobsOption = 1,
    engine: EngineOption = EngineName.local,
    address: AddressOption = None,
    cache: CacheOption = None,
    no_cache: NoCacheOption = False,
    json: JsonOption = False,
    quiet: Annotated[bool, quiet_option("nothing, only write the files asked for")] = False,
) -> None:
    """Compute the Hankel singular values of every layer.

    The values are those of the real input-output systems as stored. They say how many states a layer needs: dropping
    all but the first r states by balanced truncation costs at most 2 (sigma_r+1 + ... + sigma_n) in the H-infinity
    norm. A table shows, per layer, the smallest r for a share of the sum of the values and for an error relative to
    sigma_1.

    Selective layers (Mamba) have no such values of their own: theirs are calibrated on tokens, and say which error of
    the layer's output is to be expected with r states. Without tokens only what weights say is shown.
    """
    plot = checked_file(plot, "--plot", (".svg", ".png", ".pdf"))
    csv = checked_file(csv, "--csv", (".csv",))
    where, kept = checked_device(device, engine), chosen_cache(cache, no_cache)
    from ssmtool.errors import UsageError
    from ssmtool.pipeline.model import load

    source = token_source(tokens, text, as_bytes, sampled, length, sequences, seed)
    found = load(model, family=family)
    if not any(layer.lti for layer in found.select(layers)):
        not_for_selective(engine, jobs)
        chosen = {"tokens": tokens, "text": text, "bytes": as_bytes, "self": sampled, "seed": seed}
        options = {"layers": layers, "family": family, "device": device.value, "plot": plot, "csv": csv, **chosen}
        selective_hsv(found, source, layers, where, plot, csv, options if json else None, quiet, kept)
        return
    if source is not None:
        raise UsageError("--tokens, --text and --self are for selective layers, and none is selected")
    skipped = [layer for layer in found.select(layers) if not layer.lti]
    with Bar(quiet) as bar, chosen_engine(engine, address, jobs) as workers:
        spectra = found.hsv(layers, device=where, progress=bar.layer, cache=kept, engine=workers)
    if plot is not None:
        from ssmtool.report.plot import save_plot

        save_plot(spectra, plot, title=found.checkpoint.path.name)
    if csv is not None:
        from ssmtool.report.sigma_csv import save_csv

        save_csv(spectra, csv)
    if json:
        from ssmtool.report.documents import hsv_document
        from ssmtool.report.json_text import json_text

        options = {"layers": layers, "family": family, "device": device.value, "plot": plot, "csv": csv}
        emit(json_text(hsv_document(found, spectra, skipped, options)))
    elif not quiet:
        from ssmtool.report.text.hsv import hsv_text

        emit(hsv_text(found, spectra, skipped, [file for file in (plot, csv) if file is not None]))
