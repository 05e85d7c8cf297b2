"""The steps that make a selective layer smaller: shrink on moments, refit on tokens, measure, store."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

from ssmtool.families._contract import Layer
from ssmtool.fitting import Fit
from ssmtool.pipeline.calibrate import BATCH, as_tokens, streams
from ssmtool.pipeline.kept_fits import fit_arrays, fit_of
from ssmtool.pipeline.model import Model, family_of
from ssmtool.pipeline.selective_compression import SelectiveReduction
from ssmtool.pipeline.selective_hsv import on_runner
from ssmtool.pipeline.stages import Stages
from ssmtool.pipeline.steps import Step
from ssmtool.pipeline.storage import Tensors
from ssmtool.selective.choices import Export, Select
from ssmtool.selective.distil import distil
from ssmtool.selective.language import Runner, sum_of
from ssmtool.selective.measure import Difference
from ssmtool.selective.mixers import Mixer, ScalarMixer, to_numpy
from ssmtool.selective.projection import projected
from ssmtool.selective.refit import RefitOptions, refit
from ssmtool.selective.selection import keep_states, select
from ssmtool.selective.spectrum import CalibratedSpectrum
from ssmtool.selective.statistics import Calibration

MEASURED = 32  # sequences on which the output error of every layer is measured
Parts = dict[str, tuple[Mixer, ...]]


def shrunk(
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


def refitted(
    runner: Runner,
    running: Parts,
    small: Parts,
    tokens: np.ndarray,
    options: RefitOptions,
    step: Step,
    stages: Stages,
    choice: tuple[Any, ...],
) -> tuple[Parts, dict[str, Fit]]:
    """Layer by layer in order of application, each behind the reduced ones before it; then all of them together.

    Every fit that ends is kept. `choice` says, beside what `stages` know, what the mixers of `small` are.
    """
    start = on_runner(small, runner)
    asked = (list(small), choice, vars(options))
    done: Parts = {}
    fits: dict[str, Fit] = {}
    for name in runner.names:
        if name not in start:
            continue
        stage = stages.stage("refit", name, *asked)
        known = stage.recall(partial(fit_of, {name: start[name]}))
        if known is not None:
            done[name], fits[name] = known[0][name], known[1]
            step(name, fits[name].steps, fits[name].steps, "refit steps")
            continue
        x, residual = streams(runner, running, name, tokens, replaced={})
        added = torch.cat([_sum(running[name], part) for part in x.split(BATCH)])
        mine, reached = streams(runner, running, name, tokens, replaced=done)
        target = residual + added - reached
        done[name], fits[name] = refit(
            start[name], mine, target, options, lambda n, total, name=name: step(name, n, total, "refit steps")
        )
        stage.keep(partial(fit_arrays, {name: done[name]}, fits[name]))
    if options.last != 0 and (options.last or options.steps > 1):
        stage = stages.stage("distillation", *asked)
        known = stage.recall(partial(fit_of, done))
        if known is None:
            known = distil(
                runner,
                done,
                as_tokens(tokens, running),
                options,
                lambda n, total: step("whole model", n, total, "refit steps"),
            )
            stage.keep(partial(fit_arrays, *known))
        done = known[0]
    return {name: tuple(map(to_numpy, parts)) for name, parts in done.items()}, fits


@torch.no_grad()
def _sum(mixers: tuple[Mixer, ...], x: torch.Tensor) -> torch.Tensor:
    return sum_of(mixers, x)


def measured(
    layers: tuple[Layer, ...],
    mixers: Parts,
    small: Parts,
    spectra: dict[str, tuple[CalibratedSpectrum, ...]],
    losses: dict[str, tuple[float, ...]],
    fits: dict[str, Fit],
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


def stock_tensors(model: Model, layer: Layer, mixers: tuple[Mixer, ...]) -> Tensors:
    """Tensors of the layer with fewer states, in the dtypes they had."""
    changed = family_of(layer).from_mixers(layer, model.arrays(layer), mixers)
    stored = model.checkpoint.tensors
    found: Tensors = {}
    for role, array in changed.items():
        name = layer.tensors.get(role, role)
        found[name] = (array, stored[name].dtype)
    return found
