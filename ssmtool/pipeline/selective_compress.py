"""A selective checkpoint in, one with fewer states out: in the stock format, or with projectors."""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from ssmtool.cache import Cache
from ssmtool.checkpoint import Rewrite
from ssmtool.errors import ReductionError, UsageError
from ssmtool.families._contract import Layer
from ssmtool.fitting import Fit
from ssmtool.pipeline.calibrate import calibrate
from ssmtool.pipeline.compress import default_output
from ssmtool.pipeline.model import Model, family_of
from ssmtool.pipeline.projected import projected_config, projected_files, projected_tensors
from ssmtool.pipeline.selective_compression import SelectiveCompression, provenance, selective_card
from ssmtool.pipeline.selective_hsv import on_runner, selected
from ssmtool.pipeline.selective_layers import Parts, measured, refitted, shrunk, stock_tensors
from ssmtool.pipeline.stages import Stages, ran_by
from ssmtool.pipeline.steps import Step, no_step
from ssmtool.pipeline.storage import layer_bytes
from ssmtool.pipeline.taylor import taylor_scores
from ssmtool.pipeline.tokens import Tokens
from ssmtool.selective.choices import Export, Select
from ssmtool.selective.language import Runner
from ssmtool.selective.refit import RefitOptions
from ssmtool.selective.spectrum import CalibratedSpectrum, calibrated_spectrum

AnyChoice = TypeVar("AnyChoice", Export, Select)


def compress_selective(
    model: Model,
    runner: Runner,
    tokens: Tokens,
    output: str | Path | None,
    *,
    rank: int | None = None,
    energy: float | None = None,
    error: float | None = None,
    budget: float | None = None,
    export: Export | str = Export.stock,
    how: Select | str = Select.elimination,
    options: RefitOptions | None = None,
    layers: Iterable[str] | None = None,
    dry_run: bool = False,
    seed: int = 0,
    cache: Cache | None = None,
    step: Step = no_step,
) -> SelectiveCompression:
    """Reduce the state of the selective layers on calibration tokens.

    Args:
        model: from `ssmtool.load`.
        runner: the same model, from `open_runner` or the caller's own.
        tokens: calibration sequences.
        output: destination, which must not exist; None derives "<name>-<target>" beside the input.
        rank: states to keep.  energy: share of the sum of calibrated values.  error: predicted relative error of a
            layer's weighted scan output.  budget: share of the states. Exactly one of them.
        export: stock (an ordinary checkpoint with a smaller state) or projected (projectors beside the original
            weights; Mamba-2 only).
        how: choice of states for a stock export. Baselines are neither mixed nor refitted unless `options` are given.
        options: of the refit of a stock export; None for the defaults of `how`.
        layers: names or globs; all by default. A stock export needs all layers: configurations have one state size.
        dry_run: everything but the writing.
        seed: of random selection and of the refit.
        cache: where the sums and the fits of a runner of `open_runner` are kept, and found again; nowhere by default.
        step: progress.

    Raises:
        UsageError: not exactly one target or one out of range, options that contradict each other.
        ReductionError: nothing would become smaller, or the layer cannot be reduced so.
        CalibrationError: tokens that do not determine the Gramians.
        CheckpointError, FamilyError, OutputError: reading, interpreting or writing fails.
    """
    chosen = selected(model, layers)
    export, how = _named(Export, export, "export"), _named(Select, how, "rule of selection")
    asked = _target(rank=rank, energy=energy, error=error, budget=budget)
    _check(model, chosen, export, how, options)
    kept = 0 if asked[0] in ("energy", "error") else _rank(asked, chosen, {})
    if options is None:
        options = RefitOptions(steps=300 if how is Select.elimination else 0, seed=seed)
    with ExitStack() as stack:
        rewrite = None
        if not dry_run:
            word = f"{asked[0]}{asked[1]:g}"
            rewrite = stack.enter_context(Rewrite(model.checkpoint, output or default_output(model, word)))
        digest = stack.enter_context(ThreadPoolExecutor(1)).submit(model.checkpoint.sha256)
        mixers: Parts = {layer.name: model.mixers(layer) for layer in chosen}
        running = on_runner(mixers, runner)
        stages = Stages(cache, ran_by(runner), (model,), tokens.array)
        moments = calibrate(
            runner,
            running,
            tokens.array,
            stages=stages,
            progress=lambda done, total: step("calibrating", done, total, "sequences"),
        )
        spectra = {n: tuple(map(calibrated_spectrum, mixers[n], moments[n])) for n in mixers}
        kept = kept or _rank(asked, chosen, spectra)
        scores = None
        if export is Export.stock and how is Select.taylor:
            scores = taylor_scores(runner, running, tokens.array, step, stages)
        small, losses = shrunk(mixers, moments, kept, export, how, scores, seed)
        fits: dict[str, Fit] = {}
        if export is Export.stock and options.steps:
            choice = (kept, how.value, seed)
            small, fits = refitted(runner, running, small, tokens.array, options, step, stages, choice)
        rows = measured(chosen, mixers, small, spectra, losses, fits, runner, running, tokens.array, kept, how, export)
        tensors_of = projected_tensors if export is Export.projected else stock_tensors
        stored = {layer.name: tensors_of(model, layer, small[layer.name]) for layer in chosen}
        sizes = [layer_bytes(model, row.layer, stored[row.layer.name]) for row in rows]
        rows = [replace(r, bytes_before=b, bytes_after=a) for r, (b, a) in zip(rows, sizes, strict=True)]
        summary = SelectiveCompression(
            source=model.checkpoint.path,
            output=None,
            target=f"{asked[0]} {asked[1]:g}",
            export=export,
            select=how if export is Export.stock else None,
            tokens=tokens,
            refit_steps=options.steps if export is Export.stock else 0,
            layers=tuple(rows),
            bytes_before=model.checkpoint.data_bytes,
            bytes_after=model.checkpoint.data_bytes + sum(after - before for before, after in sizes),
            source_sha256=digest.result(),
        )
        if rewrite is None:
            return summary
        for tensors in stored.values():
            for name, (array, dtype) in tensors.items():
                rewrite.drop(name) if array is None else rewrite.put(name, array, dtype)
        if export is Export.projected:
            rewrite.config = projected_config(model.checkpoint.config, chosen, kept)
            projected_files(rewrite)
        else:
            rewrite.config = _stock_config(model, chosen, kept)
        rewrite.metadata = {"ssmtool": json.dumps(provenance(summary))}
        rewrite.card = selective_card(summary)
        path = rewrite.commit()
        return replace(summary, output=Path(path), skipped=tuple(rewrite.skipped))


def _stock_config(model: Model, layers: tuple[Layer, ...], states: int) -> dict[str, Any] | None:
    """config.json with the new state size; None where the original has none."""
    config = model.checkpoint.config
    if config is not None:
        for layer in layers:
            config = family_of(layer).reduced_config(config, layer, states)
    return config


def _named(choices: type[AnyChoice], value: str, what: str) -> AnyChoice:
    """A member of an enumeration by its value. Raises UsageError."""
    try:
        return choices(value)
    except ValueError:
        known = ", ".join(choice.value for choice in choices)
        raise UsageError(f"there is no {what} {value!r}", remedy=f"Known: {known}") from None


def _target(**given: float | None) -> tuple[str, float]:
    """The one target that was given. Raises UsageError."""
    asked = [(kind, value) for kind, value in given.items() if value is not None]
    if len(asked) != 1:
        raise UsageError(
            f"{len(asked)} targets given", remedy="Give exactly one of --rank, --energy, --error and --budget"
        )
    kind, value = asked[0]
    if (kind == "error" and not 0 < value < 1) or (kind in ("energy", "budget") and not 0 < value < 1):
        raise UsageError(f"--{kind} {value:g} is not between 0 and 1")
    return kind, value


def _check(model: Model, layers: tuple[Layer, ...], export: Export, how: Select, options: RefitOptions | None) -> None:
    """Raise for what cannot be done, before anything is computed."""
    for layer in layers:
        if not layer.options.get("exportable", True):
            raise ReductionError(
                "its surroundings are not a causal sequence model: it can be inspected and diagnosed, not reduced",
                where=layer.name,
                remedy="Leave the layer out with --layers",
            )
    if export is Export.projected:
        if how is not Select.elimination or options is not None:
            raise UsageError("--select and --refit are for --export stock: a projection needs neither")
        for layer in layers:
            if layer.options.get("kind") != "mamba-2":
                raise ReductionError(
                    "the decay of Mamba-1 differs from channel to channel, so that its states cannot be mixed",
                    where=layer.name,
                    remedy="Use --export stock",
                )
        return
    every = {layer.name for layer in model.layers if not layer.lti}
    missing = sorted(every - {layer.name for layer in layers})
    if missing:
        raise UsageError(
            f"a stock checkpoint has one state size for all layers, but {missing[0]} is not selected "
            f"({len(missing)} of {len(every)} are not)",
            remedy="Select all layers, or use --export projected",
        )


def _rank(
    asked: tuple[str, float], layers: tuple[Layer, ...], spectra: dict[str, tuple[CalibratedSpectrum, ...]]
) -> int:
    """States to keep in every layer: the most any layer needs for the target. Raises UsageError, ReductionError."""
    kind, value = asked
    states = max(layer.slots for layer in layers)
    if kind == "rank":
        if not 1 <= value <= states:
            raise UsageError(f"rank {value:g} is not between 1 and the {states} states of the layers")
        rank = int(value)
    elif kind == "budget":
        rank = max(1, int(value * states + 1e-9))
    else:
        sizes = [
            (part.size(value) if kind == "error" else part.share(value), name)
            for name in spectra
            for part in spectra[name]
        ]
        rank, worst = max(sizes)
        if rank >= states:
            near = min(part.errors[states - 1] for part in spectra[worst])
            raise ReductionError(
                f"{kind} {value:g} needs all {states} states of {worst}",
                remedy=f"Ask for less: with {states - 1} states its predicted error is {near:.2g}",
            )
    if rank >= states:
        raise ReductionError(f"{kind} {value:g} keeps all {states} states: nothing becomes smaller")
    return max(rank, 1)
