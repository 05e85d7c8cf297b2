"""What hsv and compress do with selective layers: open the model, read the tokens, compute, print."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssmtool.cli._output import emit
from ssmtool.cli._progress import Bar
from ssmtool.selective.choices import Export, Select

if TYPE_CHECKING:
    from ssmtool.cache import Cache
    from ssmtool.pipeline.model import Model
    from ssmtool.pipeline.tokens import TokenSource


def selective_hsv(
    model: Model,
    source: TokenSource | None,
    layers: list[str] | None,
    device: str,
    plot: Path | None,
    csv: Path | None,
    document: Mapping[str, Any] | None,
    quiet: bool,
    cache: Cache,
) -> None:
    """Calibrated values, or what weights alone say. Args: document: options for JSON, None for text.

    Raises:
        UsageError: a picture or a table of values without tokens.
    """
    from ssmtool.errors import UsageError
    from ssmtool.pipeline.selective_hsv import calibrated_hsv, static_hsv

    if source is None:
        if plot is not None or csv is not None:
            raise UsageError(
                "--plot and --csv of selective layers need tokens", remedy="Give --tokens FILE, --text FILE or --self N"
            )
        found = static_hsv(model, layers)
    else:
        from ssmtool.pipeline.runner import open_runner
        from ssmtool.pipeline.tokens import read_tokens

        with Bar(quiet) as bar:
            runner = open_runner(model, device)
            read = read_tokens(source, model, runner, cache=cache)
            found = calibrated_hsv(model, runner, read, layers, cache=cache, step=bar.step)
    if plot is not None:
        from ssmtool.report.calibrated_plot import save_calibrated_plot

        save_calibrated_plot(found.layers, plot, title=model.checkpoint.path.name)
    if csv is not None:
        from ssmtool.report.sigma_csv import save_values

        save_values(found.values(), csv)
    if document is not None:
        from ssmtool.report.json_text import json_text
        from ssmtool.report.selective_documents import calibrated_document

        emit(json_text(calibrated_document(model, found, document)))
    elif not quiet:
        from ssmtool.report.text.selective import calibrated_text

        emit(calibrated_text(model.checkpoint.path, found, [file for file in (plot, csv) if file is not None]))


def selective_compress(
    model: Model,
    source: TokenSource | None,
    output: Path | None,
    *,
    targets: Mapping[str, Any],
    export: Export | None,
    select: Select | None,
    refit: int | None,
    layers: list[str] | None,
    dry_run: bool,
    seed: int,
    device: str,
    document: Mapping[str, Any] | None,
    quiet: bool,
    cache: Cache,
) -> None:
    """Reduce selective layers on calibration tokens. Args: document: options for JSON, None for text.

    Raises:
        UsageError: no tokens.
    """
    from ssmtool.errors import UsageError

    if source is None:
        raise UsageError(
            "selective layers are reduced on calibration tokens, and none are given",
            remedy="Give --tokens FILE, --text FILE, or --self N to let the model sample its own",
        )
    from ssmtool.pipeline.runner import open_runner
    from ssmtool.pipeline.selective_compress import compress_selective
    from ssmtool.pipeline.tokens import read_tokens
    from ssmtool.selective.refit import RefitOptions

    with Bar(quiet) as bar:
        runner = open_runner(model, device)
        done = compress_selective(
            model,
            runner,
            read_tokens(source, model, runner, cache=cache),
            output,
            **targets,
            export=export or Export.stock,
            how=select or Select.elimination,
            options=None if refit is None else RefitOptions(steps=refit, seed=seed),
            layers=layers,
            dry_run=dry_run,
            seed=seed,
            cache=cache,
            step=bar.step,
        )
    if document is not None:
        from ssmtool.report.json_text import json_text
        from ssmtool.report.selective_documents import selective_compress_document

        emit(json_text(selective_compress_document(model, done, document)))
    elif quiet:
        emit(str(done.output or ""))
    else:
        from ssmtool.report.text.selective import selective_compress_text

        emit(selective_compress_text(done))
