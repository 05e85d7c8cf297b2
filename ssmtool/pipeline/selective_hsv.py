"""Calibrated Hankel singular values of the selective layers of a model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ssmtool.cache import Cache
from ssmtool.errors import FamilyError
from ssmtool.families._contract import Layer
from ssmtool.pipeline.model import Model
from ssmtool.pipeline.steps import Step, no_step
from ssmtool.pipeline.tokens import Tokens
from ssmtool.selective.language import Runner
from ssmtool.selective.mixers import Mixer, to_torch
from ssmtool.selective.spectrum import CalibratedSpectrum, calibrated_spectrum, static_values


@dataclass(frozen=True)
class LayerCalibration:
    """One selective layer.

    Attributes:
        layer: the layer.
        spectra: per mixer (two for bidirectional layers); empty without tokens.
        static: (mixers, G, N) values from weights alone, see selective/spectrum.py.
    """

    layer: Layer
    spectra: tuple[CalibratedSpectrum, ...]
    static: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class CalibratedHsv:
    """Result of `calibrated_hsv`.

    Attributes:
        layers: in checkpoint order.
        tokens: what was run; None where only weights were looked at.
    """

    layers: tuple[LayerCalibration, ...]
    tokens: Tokens | None

    def values(self) -> tuple[tuple[str, np.ndarray], ...]:
        """Layer name and calibrated values (groups of all its mixers, N)."""
        return tuple(
            (row.layer.name, np.concatenate([part.values for part in row.spectra]))
            for row in self.layers
            if row.spectra
        )


def selected(model: Model, layers: Iterable[str] | None) -> tuple[Layer, ...]:
    """The selective layers among those selected. Raises UsageError, FamilyError if there are none."""
    found = tuple(layer for layer in model.select(layers) if not layer.lti)
    if not found:
        raise FamilyError("none of the selected layers is input-dependent", where=str(model.checkpoint.path))
    return found


def static_hsv(model: Model, layers: Iterable[str] | None = None) -> CalibratedHsv:
    """What weights alone say. Raises UsageError, FamilyError, CheckpointError."""
    rows = []
    for layer in selected(model, layers):
        rows.append(LayerCalibration(layer, (), tuple(map(static_values, model.mixers(layer)))))
    return CalibratedHsv(tuple(rows), None)


def calibrated_hsv(
    model: Model,
    runner: Runner,
    tokens: Tokens,
    layers: Iterable[str] | None = None,
    *,
    cache: Cache | None = None,
    step: Step = no_step,
) -> CalibratedHsv:
    """Calibrated values of the selected layers, all measured in one pass over the tokens.

    Args:
        model: the checkpoint.
        runner: the same model, from `open_runner` or the caller's own.
        tokens: to run.
        layers: names or globs; all by default.
        cache: where the sums of a runner of `open_runner` are kept, and found again; nowhere by default.
        step: progress.

    Raises:
        UsageError, FamilyError, CheckpointError: as `Model.select`, `Model.mixers`.
        CalibrationError: too few tokens for the states, or values that are not finite.
    """
    from ssmtool.pipeline.calibrate import calibrate
    from ssmtool.pipeline.stages import Stages, ran_by

    chosen = selected(model, layers)
    mixers = {layer.name: model.mixers(layer) for layer in chosen}
    found = calibrate(
        runner,
        on_runner(mixers, runner),
        tokens.array,
        stages=Stages(cache, ran_by(runner), (model,), tokens.array),
        progress=lambda done, total: step("calibrating", done, total, "sequences"),
    )
    rows = []
    for layer in chosen:
        parts = tuple(map(calibrated_spectrum, mixers[layer.name], found[layer.name]))
        rows.append(LayerCalibration(layer, parts, tuple(part.static for part in parts)))
    return CalibratedHsv(tuple(rows), tokens)


def on_runner(mixers: dict[str, tuple[Mixer, ...]], runner: Runner) -> dict[str, tuple[Mixer, ...]]:
    """The mixers as float32 tensors on the runner's device."""
    import torch

    device = str(getattr(runner, "device", "cpu"))
    return {name: tuple(to_torch(mixer, torch.float32, device) for mixer in parts) for name, parts in mixers.items()}
