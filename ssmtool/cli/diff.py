"""ssmtool diff: two models, or documents about them, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    NoCacheOption,
    checked_device,
    chosen_cache,
    chosen_engine,
    examples,
    quiet_option,
)
from ssmtool.cli._output import emit
from ssmtool.cli._progress import Bar

if TYPE_CHECKING:
    from ssmtool.cache import Cache
    from ssmtool.checks.diff import Profile
    from ssmtool.pipeline.engines._contract import Engine

EXAMPLES = examples(
    "ssmtool diff before.safetensors after.safetensors",
    "ssmtool diff last-release.json model.safetensors --fail-on-change",
    "ssmtool diff before.json after.json --json",
)
_SIDE = "Checkpoint, or a JSON document of ssmtool (.json)"


def command(
    before: Annotated[str, typer.Argument(metavar="A", help=f"{_SIDE}.", show_default=False)],
    after: Annotated[str, typer.Argument(metavar="B", help=f"{_SIDE}, to compare A with.", show_default=False)],
    layers: LayerOption = None,
    fail: Annotated[bool, typer.Option("--fail-on-change", help="Exit with 1 if anything differs.")] = False,
    family: FamilyOption = None,
    device: DeviceOption = Device.auto,
    jobs: JobsOption = 1,
    engine: EngineOption = EngineName.local,
    address: AddressOption = None,
    cache: CacheOption = None,
    no_cache: NoCacheOption = False,
    json: JsonOption = False,
    quiet: Annotated[bool, quiet_option("nothing: the exit code says it")] = False,
) -> None:
    """Compare two models, or documents about them, layer by layer.

    Stored states, sizes, Hankel singular values, orders, stability, memory: what is in both is compared, what one side
    does not know is left out. Differences below one part in 10^9 are rounding.
    """
    where, kept = checked_device(device, engine), chosen_cache(cache, no_cache)
    from ssmtool.checks.diff import diff

    with Bar(quiet) as bar, chosen_engine(engine, address, jobs) as workers:
        sides = [_side(side, layers, family, where, kept, workers, bar) for side in (before, after)]
    found = diff(sides[0][0], sides[1][0])
    if json:
        from ssmtool.report.diff_document import Side, diff_document
        from ssmtool.report.json_text import json_text

        options = {"layers": layers, "fail_on_change": fail, "family": family, "device": device.value}
        first, second = (
            Side(path=path, kind="document" if made else "model", command=made)
            for path, (_, made) in zip((before, after), sides, strict=True)
        )
        emit(json_text(diff_document(first, second, found, options)))
    elif not quiet:
        from ssmtool.report.text.diff import diff_text

        emit(diff_text(before, after, found))
    if fail and any(layer.changed for layer in found):
        raise typer.Exit(1)


def _side(
    path: str, patterns: list[str] | None, family: str | None, device: str, cache: Cache, engine: Engine, bar: Bar
) -> tuple[dict[str, Profile], str | None]:
    """The layers of one side, and the command that made it if it is a document. Raises UsageError."""
    from fnmatch import fnmatchcase

    from ssmtool.checks.baseline import read_baseline
    from ssmtool.checks.diff import profiles_of_document, profiles_of_model
    from ssmtool.checks.subject import Bench
    from ssmtool.errors import UsageError
    from ssmtool.pipeline.model import load

    if Path(path).suffix.lower() != ".json":
        model = load(path, family=family)
        bench = Bench(model, cache, None, device, engine, bar.step)
        return profiles_of_model(bench, model.select(patterns)), None
    document = read_baseline(path)
    if len(document.models) != 1:
        raise UsageError(f"is about {len(document.models)} models", where=path, remedy="Give a document of one model")
    found: dict[str, Any] = profiles_of_document(document.models[0])
    if not found:
        raise UsageError(f"a document of {document.command} says nothing of layers", where=path)
    chosen = {n: p for n, p in found.items() if not patterns or any(fnmatchcase(n, glob) for glob in patterns)}
    return chosen, document.command
