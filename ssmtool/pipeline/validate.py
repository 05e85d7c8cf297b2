"""Two checkpoints run side by side: does the reduced one do what the original did, within its certified bound?"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from ssmtool.families._contract import Layer
from ssmtool.lti.factors import resolve_device
from ssmtool.lti.hankel import hankel_singular_values
from ssmtool.lti.minimal import minimal
from ssmtool.lti.orders import tail_bound
from ssmtool.lti.systems import DiagonalSystem
from ssmtool.pipeline.model import LayerProgress, Model, linear
from ssmtool.pipeline.pairing import check_rest, partners, record_of, recorded_bounds, refined_layers
from ssmtool.pipeline.scans import LayerRun, floor_share, operation_of, resolved
from ssmtool.pipeline.signals import LENGTH, SEED, fit_inputs, generated, read_inputs
from ssmtool.pipeline.stable_parts import StableParts, stable_parts
from ssmtool.pipeline.storage import storage_rounding
from ssmtool.pipeline.validation import Agreement, InputResult, LayerValidation, Validation

_UNRECORDED_ROUNDING = 1e-5  # relative allowance for storage rounding where the checkpoint does not record it


def validate(
    original: Model,
    reduced: Model,
    *,
    length: int = LENGTH,
    inputs: str | Path | None = None,
    max_error: float | None = None,
    layers: Iterable[str] | None = None,
    seed: int = SEED,
    device: str = "auto",
    backend: str = "auto",
    progress: LayerProgress | None = None,
) -> Validation:
    """Run the scans of both models on the same inputs, layer by layer, and compare.

    The bound is the one recorded in the reduced checkpoint (a priori bound of the truncation plus the measured rounding
    of storage); for a checkpoint without a record it is recomputed from the original's Hankel singular values and the
    orders found. Where there is none (methods without a bound), the measured H-infinity error takes its place, so that
    only the arithmetic of the scans is tested.

    States on or outside the unit circle have no finite norm, and `compress` keeps them: they have to be the same in
    both models, up to the rounding of storage, and the stable parts are what is run and measured. After a refinement,
    which fits weights, they have to have the same poles.

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
    refined = refined_layers(record_of(original, reduced))
    check_rest(original, reduced, bool(recorded))
    given = None if inputs is None else read_inputs(Path(inputs))
    results = []
    for layer, partner in zip(chosen, matching, strict=True):
        if progress:
            progress(layer, 0, 1)
        parts = stable_parts(
            original.system(layer),
            reduced.system(partner),
            storage_rounding(reduced, partner),
            same_weights=layer.name not in refined,
        )
        signals = generated(layer, length, seed) if given is None else fit_inputs(given, layer)
        bound = recorded.get(layer.name)
        results.append(_validate_layer(layer, partner, parts, bound, signals, max_error, target, running))
        if progress:
            progress(layer, 1, 1)
    steps = length if given is None else given[1].shape[1]
    return Validation(tuple(results), steps, str(target), running, max_error)


def _validate_layer(
    layer: Layer,
    partner: Layer,
    parts: StableParts,
    recorded: np.ndarray | None,
    signals: dict[str, np.ndarray],
    max_error: float | None,
    device: torch.device,
    backend: str,
) -> LayerValidation:
    first, second = parts.first, parts.second
    spectrum = hankel_singular_values(first, str(device))
    norm = spectrum.sigma.max(axis=1)
    hinf = parts.hinf_error(str(device))
    bound = recorded
    if bound is None or bound.shape != hinf.shape:
        order = minimal(second).order if isinstance(second, DiagonalSystem) else second.order - parts.unstable[1]
        bound = tail_bound(spectrum.sigma)[np.arange(layer.systems), order] + _UNRECORDED_ROUNDING * norm
    limit = np.where(np.isnan(bound), hinf, bound) * (1 + 1e-6)
    scale = np.where(norm > 0, norm, 1.0)
    results = []
    agreement = np.zeros((2, 2))
    seconds = np.zeros(2)
    steps = next(iter(signals.values())).shape[1]
    both = [LayerRun(system, steps, device, backend) for system in (first, second)]
    for i, (name, u) in enumerate(signals.items()):
        runs = [run(u, timed=i == 0) for run in both]
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
    reason = parts.reason or _above(hinf, limit, bound, results, max_error)
    return LayerValidation(
        name=layer.name,
        systems=layer.systems,
        slots=(layer.slots, partner.slots),
        bound=float((bound / scale).max()),
        hinf=float(np.where(parts.apart, np.inf, hinf / scale).max()),
        hinf_within=bool((hinf <= limit)[~parts.apart].all()) and not parts.apart.any(),
        inputs=tuple(results),
        original=Agreement(*map(float, agreement[0])),
        reduced=Agreement(*map(float, agreement[1])),
        operation=operation_of(first),
        seconds_original=float(seconds[0]),
        seconds_reduced=float(seconds[1]),
        floor_original=floor_share(first, steps, float(seconds[0]), device),
        floor_reduced=floor_share(second, steps, float(seconds[1]), device),
        unstable=(int(parts.unstable[0].sum()), int(parts.unstable[1].sum())),
        unstable_deviation=parts.deviation,
        passed=not reason,
        reason=reason,
    )


def _above(
    hinf: np.ndarray, limit: np.ndarray, bound: np.ndarray, results: list[InputResult], max_error: float | None
) -> str:
    """The bound or limit that is exceeded, "" if none is."""
    worst = max(row.error for row in results)
    if not (hinf <= limit).all():
        s = int(np.argmax(hinf - limit))
        return f"H-infinity error {hinf[s]:.3g} of system {s} exceeds its bound {bound[s]:.3g}"
    if not all(row.within for row in results):
        return f"output error exceeds the bound for {', '.join(row.input for row in results if not row.within)}"
    if max_error is not None and worst > max_error:
        return f"output error {worst:.3g} exceeds --max-error {max_error:g}"
    return ""
