"""Two checkpoints run side by side: does the reduced one do what the original did, within its certified bound?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch

from ssmtool.errors import UnstableError
from ssmtool.families._contract import Layer
from ssmtool.lti.factors import resolve_device
from ssmtool.lti.hankel import hankel_singular_values
from ssmtool.lti.minimal import minimal
from ssmtool.lti.norms import difference, hinf_norm
from ssmtool.lti.orders import tail_bound
from ssmtool.lti.stability import unstable_states
from ssmtool.lti.systems import DiagonalSystem, System
from ssmtool.pipeline.model import LayerProgress, Model, linear
from ssmtool.pipeline.pairing import check_rest, partners, recorded_bounds
from ssmtool.pipeline.scans import floor_share, operation_of, resolved, run_layer
from ssmtool.pipeline.signals import fit_inputs, generated, read_inputs
from ssmtool.pipeline.validation import Agreement, InputResult, LayerValidation, Validation

_UNRECORDED_ROUNDING = 1e-5  # relative allowance for storage rounding where the checkpoint does not record it


def validate(
    original: Model,
    reduced: Model,
    *,
    length: int = 1024,
    inputs: str | Path | None = None,
    max_error: float | None = None,
    layers: Iterable[str] | None = None,
    seed: int = 0,
    device: str = "auto",
    backend: str = "auto",
    progress: LayerProgress | None = None,
) -> Validation:
    """Run the scans of both models on the same inputs, layer by layer, and compare.

    The bound is the one recorded in the reduced checkpoint (a priori bound of the truncation plus the measured rounding
    of storage); for a checkpoint without a record it is recomputed from the original's Hankel singular values and the
    orders found. Where there is none (methods without a bound), the measured H-infinity error takes its place, so that
    only the arithmetic of the scans is tested.

    Args:
        original, reduced: from `ssmtool.load`.
        length: steps of the generated inputs.
        inputs: .npy file of real inputs instead of the generated ones: (L,), (L, channels) or (sequences, L, channels),
            with 1, m or S * m channels of every selected layer.
        max_error: limit on the relative output error of a layer, above which it fails.
        layers: names or globs.
        seed: of the white noise.
        device, progress: as in `Model.hsv`.
        backend: what runs the scans of diagonal systems: "auto", "naive", "cpu", "triton" or "torch".

    Raises:
        MismatchError: the checkpoints do not belong together.
        UsageError: inputs of the wrong shape, no such layer, a backend that cannot run here.
        CheckpointError: inputs that cannot be read.
    """
    target = resolve_device(device)
    running = resolved(backend, target)
    chosen = linear(original.select(layers))
    matching = partners(original, reduced, chosen)
    recorded = recorded_bounds(original, reduced)
    check_rest(original, reduced, bool(recorded))
    given = None if inputs is None else read_inputs(Path(inputs))
    results = []
    for layer, partner in zip(chosen, matching, strict=True):
        if progress:
            progress(layer, 0, 1)
        first, second = original.system(layer), reduced.system(partner)
        signals = generated(layer, length, seed) if given is None else fit_inputs(given, layer)
        bound = recorded.get(layer.name)
        results.append(_validate_layer(layer, partner, first, second, bound, signals, max_error, target, running))
        if progress:
            progress(layer, 1, 1)
    steps = length if given is None else given[1].shape[1]
    return Validation(tuple(results), steps, str(target), running, max_error)


def _validate_layer(
    layer: Layer,
    partner: Layer,
    first: System,
    second: System,
    recorded: np.ndarray | None,
    signals: dict[str, np.ndarray],
    max_error: float | None,
    device: torch.device,
    backend: str,
) -> LayerValidation:
    if unstable_states(first).any() or unstable_states(second).any():
        return _unstable(layer, partner, first, second, tuple(signals))
    spectrum = hankel_singular_values(first, str(device))
    norm = np.where(np.isinf(spectrum.sigma), 0.0, spectrum.sigma).max(axis=1)
    hinf = hinf_norm(difference(first, second), str(device))
    bound = recorded
    if bound is None or bound.shape != hinf.shape:
        order = minimal(second).order if isinstance(second, DiagonalSystem) else np.full(layer.systems, second.order)
        bound = tail_bound(spectrum.sigma)[np.arange(layer.systems), order] + _UNRECORDED_ROUNDING * norm
    limit = np.where(np.isnan(bound), hinf, bound) * (1 + 1e-6)
    scale = np.where(norm > 0, norm, 1.0)
    results = []
    agreement = np.zeros((2, 2))
    seconds = np.zeros(2)
    steps = next(iter(signals.values())).shape[1]
    for i, (name, u) in enumerate(signals.items()):
        runs = [run_layer(system, u, device, backend, timed=i == 0) for system in (first, second)]
        (y, noise, deviation, elapsed), (z, noise_reduced, deviation_reduced, elapsed_reduced) = runs
        agreement = np.maximum(agreement, [deviation, deviation_reduced])
        seconds += np.array([elapsed, elapsed_reduced])
        error = np.sqrt(np.square(y - z).sum(axis=(1, 2)))
        size = np.sqrt(np.square(u).sum(axis=(1, 2)))
        output = np.sqrt(np.square(y).sum(axis=(1, 2)))
        within = bool((error <= limit * size + noise + noise_reduced).all())
        relative = float((error / np.where(output > 0, output, 1.0)).max())
        results.append(
            InputResult(name, float((error / (size * scale)).max()) if size.any() else 0.0, relative, within)
        )
    hinf_within = bool((hinf <= limit).all())
    worst = max(r.error for r in results)
    reason = ""
    if not hinf_within:
        s = int(np.argmax(hinf - limit))
        reason = f"H-infinity error {hinf[s]:.3g} of system {s} exceeds its bound {bound[s]:.3g}"
    elif not all(r.within for r in results):
        reason = f"output error exceeds the bound for {', '.join(r.input for r in results if not r.within)}"
    elif max_error is not None and worst > max_error:
        reason = f"output error {worst:.3g} exceeds --max-error {max_error:g}"
    return LayerValidation(
        name=layer.name,
        systems=layer.systems,
        slots=(layer.slots, partner.slots),
        bound=float((bound / scale).max()),
        hinf=float((hinf / scale).max()),
        hinf_within=hinf_within,
        inputs=tuple(results),
        original=Agreement(*map(float, agreement[0])),
        reduced=Agreement(*map(float, agreement[1])),
        operation=operation_of(first),
        seconds_original=float(seconds[0]),
        seconds_reduced=float(seconds[1]),
        floor_original=floor_share(first, steps, float(seconds[0]), device),
        floor_reduced=floor_share(second, steps, float(seconds[1]), device),
        passed=not reason,
        reason=reason,
    )


def _unstable(layer: Layer, partner: Layer, first: System, second: System, inputs: tuple[str, ...]) -> LayerValidation:
    """An unstable layer has no finite norms and no bounded scans: it passes if it is the same in both models.

    Raises:
        UnstableError: it was changed.
    """
    same = type(first) is type(second) and all(
        np.array_equal(getattr(first, field.name), getattr(second, field.name)) for field in fields(first)
    )
    if not same:
        raise UnstableError(
            "eigenvalues on or outside the unit circle: the two models cannot be compared here",
            where=layer.name,
            remedy="Leave the layer out with --layers",
        )
    nothing = Agreement(0.0, 0.0)
    return LayerValidation(
        name=layer.name,
        systems=layer.systems,
        slots=(layer.slots, partner.slots),
        bound=0.0,
        hinf=0.0,
        hinf_within=True,
        inputs=tuple(InputResult(name, 0.0, 0.0, True) for name in inputs),
        original=nothing,
        reduced=nothing,
        operation=operation_of(first),
        seconds_original=0.0,
        seconds_reduced=0.0,
        floor_original=None,
        floor_reduced=None,
        passed=True,
        reason="",
    )
