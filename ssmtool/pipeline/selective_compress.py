"""A selective checkpoint in, one with fewer states out: in the stock format, or with projectors."""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ssmtool.checkpoint import Rewrite
from ssmtool.errors import ReductionError, UsageError
from ssmtool.families._contract import Layer
from ssmtool.pipeline.calibrate import BATCH, as_tokens, calibrate, streams
from ssmtool.pipeline.compress import default_output
from ssmtool.pipeline.model import Model, family_of
from ssmtool.pipeline.selective_compression import (
    SelectiveCompression,
    SelectiveReduction,
    provenance,
    selective_card,
)
from ssmtool.pipeline.selective_hsv import Step, no_step, on_runner, selected
from ssmtool.pipeline.storage import Tensors, layer_bytes
from ssmtool.pipeline.taylor import taylor_scores
from ssmtool.pipeline.tokens import Tokens
from ssmtool.selective.choices import Export, Select
from ssmtool.selective.language import Runner, sum_of
from ssmtool.selective.measure import Difference
from ssmtool.selective.mixers import Mixer, ScalarMixer, to_numpy
from ssmtool.selective.projection import projected
from ssmtool.selective.refit import Refit, RefitOptions, refit
from ssmtool.selective.selection import keep_states, select
from ssmtool.selective.spectrum import CalibratedSpectrum, calibrated_spectrum
from ssmtool.selective.statistics import Calibration

MEASURED = 32  # sequences on which the output error of every layer is measured
Parts = dict[str, tuple[Mixer, ...]]


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
    export: Export | None = None,
    how: Select = Select.elimination,
    options: RefitOptions | None = None,
    layers: Iterable[str] | None = None,
    dry_run: bool = False,
    seed: int = 0,
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
            weights; Mamba-2 only). By default stock.
        how: choice of states for a stock export. Baselines are neither mixed nor refitted unless `options` are given.
        options: of the refit of a stock export; None for the defaults of `how`.
        layers: names or globs; all by default. A stock export needs all layers: configurations have one state size.
        dry_run: everything but the writing.
        seed: of random selection and of the refit.
        step: progress.

    Raises:
        UsageError: not exactly one target or one out of range, options that contradict each other.
        ReductionError: nothing would become smaller, or the layer cannot be reduced so.
        CalibrationError: tokens that do not determine the Gramians.
        CheckpointError, FamilyError, OutputError: reading, interpreting or writing fails.
    """
    chosen = selected(model, layers)
    export = export or Export.stock
    asked = _target(rank=rank, energy=energy, error=error, budget=budget)
    _check(model, chosen, export, how, options)
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
        moments = calibrate(
            runner, running, tokens.array, progress=lambda done, total: step("calibrating", done, total, "sequences")
        )
        spectra = {n: tuple(map(calibrated_spectrum, mixers[n], moments[n])) for n in mixers}
        kept = _rank(asked, chosen, spectra)
        scores = None
        if export is Export.stock and how is Select.taylor:
            scores = taylor_scores(runner, running, tokens.array, step)
        small, losses = _shrunk(mixers, moments, kept, export, how, scores, seed)
        fits: dict[str, Refit] = {}
        if export is Export.stock and options.steps:
            small, fits = _refitted(runner, running, small, tokens.array, options, step)
        rows = _measured(chosen, mixers, small, spectra, losses, fits, runner, running, tokens.array, kept, how, export)
        summary = SelectiveCompression(
            source=model.checkpoint.path,
            output=None,
            target=f"{asked[0]} {asked[1]:g}",
            export=export,
            select=how if export is Export.stock else None,
            tokens=tokens,
            refit_steps=options.steps if export is Export.stock else 0,
            layers=(),
            bytes_before=model.checkpoint.data_bytes,
            bytes_after=model.checkpoint.data_bytes,
            source_sha256="",
        )
        if export is Export.projected:
            from ssmtool.pipeline.projected import projected_tensors

            stored = {layer.name: projected_tensors(model, layer, small[layer.name]) for layer in chosen}
        else:
            stored = {layer.name: _stock_tensors(model, layer, small[layer.name]) for layer in chosen}
        sized = []
        for row in rows:
            before, after = layer_bytes(model, row.layer, stored[row.layer.name])
            sized.append(replace(row, bytes_before=before, bytes_after=after))
        summary = replace(
            summary,
            layers=tuple(sized),
            bytes_after=summary.bytes_before + sum(row.bytes_after - row.bytes_before for row in sized),
            source_sha256=digest.result(),
        )
        if rewrite is None:
            return summary
        for tensors in stored.values():
            for name, (array, dtype) in tensors.items():
                rewrite.drop(name) if array is None else rewrite.put(name, array, dtype)
        config = model.checkpoint.config
        if export is Export.projected:
            from ssmtool.pipeline.projected import projected_config, projected_files

            rewrite.config = projected_config(config, chosen, kept)
            projected_files(rewrite)
        elif config is not None:
            for layer in chosen:
                config = family_of(layer).reduced_config(config, layer, kept)
            rewrite.config = config
        rewrite.metadata = {"ssmtool": json.dumps(provenance(summary))}
        rewrite.card = selective_card(summary)
        path = rewrite.commit()
        return replace(summary, output=Path(path), skipped=tuple(rewrite.skipped))


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
            raise UsageError("--select and --refit are for --export stock: a projection keeps no states and needs none")
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


def _shrunk(
    mixers: Parts,
    moments: dict[str, tuple[Calibration, ...]],
    rank: int,
    export: Export,
    how: Select,
    scores: dict[str, tuple[np.ndarray, ...]] | None,
    seed: int,
) -> tuple[Parts, dict[str, tuple[float, ...]]]:
    """Mixers with `rank` states, and the predicted squared relative error of each (NaN: predicted by its spectrum)."""
    small: Parts = {}
    losses: dict[str, tuple[float, ...]] = {}
    for index, (name, parts) in enumerate(mixers.items()):
        found, lost = [], []
        for k, (mixer, moment) in enumerate(zip(parts, moments[name], strict=True)):
            if export is Export.projected:
                found.append(projected(mixer, moment, rank))
                lost.append(float("nan"))
                continue
            taylor = None if scores is None else scores[name][k]
            selection = select(mixer, moment, rank, how, taylor=taylor, seed=seed + 1000 * index + k)
            found.append(keep_states(mixer, selection))
            lost.append(selection.loss)
        small[name], losses[name] = tuple(found), tuple(lost)
    return small, losses


def _refitted(
    runner: Runner, running: Parts, small: Parts, tokens: np.ndarray, options: RefitOptions, step: Step
) -> tuple[Parts, dict[str, Refit]]:
    """Layer by layer in order of application, each behind the reduced ones before it."""
    start = on_runner(small, runner)
    done: Parts = {}
    fits: dict[str, Refit] = {}
    for name in runner.names:
        if name not in start:
            continue
        x, residual = streams(runner, running, name, tokens, replaced={})
        added = torch.cat([_sum(running[name], part) for part in x.split(BATCH)])
        mine, reached = streams(runner, running, name, tokens, replaced=done)
        target = residual + added - reached
        done[name], fits[name] = refit(
            start[name], mine, target, options, lambda n, total, name=name: step(name, n, total, "refit steps")
        )
    return {name: tuple(map(to_numpy, parts)) for name, parts in done.items()}, fits


@torch.no_grad()
def _sum(mixers: tuple[Mixer, ...], x: torch.Tensor) -> torch.Tensor:
    return sum_of(mixers, x)


def _measured(
    layers: tuple[Layer, ...],
    mixers: Parts,
    small: Parts,
    spectra: dict[str, tuple[CalibratedSpectrum, ...]],
    losses: dict[str, tuple[float, ...]],
    fits: dict[str, Refit],
    runner: Runner,
    running: Parts,
    tokens: np.ndarray,
    rank: int,
    how: Select,
    export: Export,
) -> tuple[SelectiveReduction, ...]:
    """Output errors of every reduced layer on the original's own stream."""
    reduced = on_runner(small, runner)
    differences = {layer.name: Difference() for layer in layers}

    def visit(name: str, x: torch.Tensor, _: torch.Tensor) -> None:
        if name in differences:
            differences[name].update(running[name], reduced[name], x.to(running[name][0].out))

    rows = tokens[np.linspace(0, len(tokens) - 1, min(MEASURED, len(tokens))).round().astype(int)]
    with torch.no_grad():
        for start in range(0, len(rows), BATCH):
            runner.logits(as_tokens(rows[start : start + BATCH], running), visit)
    found = []
    for layer in layers:
        name = layer.name
        optimum = _combined([part.errors[rank] ** 2 for part in spectra[name]])
        predicted = optimum if np.isnan(losses[name]).all() else _combined(list(losses[name]))
        found.append(
            SelectiveReduction(
                layer=layer,
                method=_method(mixers[name][0], how, export, name in fits),
                states=rank,
                predicted=predicted,
                projection=optimum,
                scan_error=differences[name].scan_error,
                out_error=differences[name].out_error,
                refit=fits.get(name),
            )
        )
    return tuple(found)


def _combined(squares: list[float]) -> float:
    return float(np.sqrt(max(np.mean(squares), 0.0)))


def _method(mixer: Mixer, how: Select, export: Export, refitted: bool) -> str:
    if export is Export.projected:
        return "projection"
    mixed = how is Select.elimination and not isinstance(mixer, ScalarMixer) and mixer.c_norm is None
    return how.value + (" + C-mix" if mixed else "") + (" + refit" if refitted else "")


def _stock_tensors(model: Model, layer: Layer, mixers: tuple[Mixer, ...]) -> Tensors:
    """Tensors of the layer with fewer states, in the dtypes they had."""
    changed = family_of(layer).from_mixers(layer, model.arrays(layer), mixers)
    stored = model.checkpoint.tensors
    found: Tensors = {}
    for role, array in changed.items():
        name = layer.tensors.get(role, role)
        found[name] = (array, stored[name].dtype)
    return found
