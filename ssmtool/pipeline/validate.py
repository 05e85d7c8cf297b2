"""Two checkpoints run side by side: does the reduced one do what the original did, within its certified bound?"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ssmtool.errors import CheckpointError, MismatchError, UsageError
from ssmtool.families._contract import Layer
from ssmtool.lti.factors import resolve_device
from ssmtool.lti.hankel import hankel_singular_values
from ssmtool.lti.impulse import impulse_response
from ssmtool.lti.minimal import minimal
from ssmtool.lti.norms import difference, hinf_norm
from ssmtool.lti.orders import tail_bound
from ssmtool.lti.systems import DiagonalSystem, System
from ssmtool.pipeline.model import LayerProgress, Model, linear
from ssmtool_kernels.convolution import diagonal_convolution, kernel_convolution
from ssmtool_kernels.dense_scan import dense_scan
from ssmtool_kernels.diagonal_scan import diagonal_scan

_SCAN_BYTES = 1 << 28  # states of one batch of systems kept at a time
_UNRECORDED_ROUNDING = 1e-5  # relative allowance for storage rounding where the checkpoint does not record it


@dataclass(frozen=True)
class InputResult:
    """One layer driven by one input.

    Attributes:
        input: "noise", "impulse", "step" or the name of the file.
        gain: largest ||y - y_r||_2 / ||u||_2 over the layer's systems, relative to the system's Hankel norm.
        error: largest ||y - y_r||_2 / ||y||_2 over the layer's systems.
        within: whether every system's error stays below its bound.
    """

    input: str
    gain: float
    error: float
    within: bool


@dataclass(frozen=True)
class Agreement:
    """Largest relative deviation (L2, over systems and inputs) from the float64 reference, of one model's layer."""

    scan: float
    convolution: float


@dataclass(frozen=True)
class LayerValidation:
    """One layer of both models.

    Attributes:
        name: layer name. systems: S. slots: stored modes before and after.
        bound: largest certified H-infinity bound (recorded or recomputed) relative to the Hankel norm.
        hinf: largest measured H-infinity error of a system relative to its Hankel norm.
        hinf_within: whether every system's H-infinity error stays below its bound.
        inputs: per input.
        original, reduced: agreement of scan and convolution (float32) with the float64 reference.
        seconds_original, seconds_reduced: scan time of the layer, best of three.
        passed: within the bound, and below max_error if one was given.
        reason: why not, "" if passed.
    """

    name: str
    systems: int
    slots: tuple[int, int]
    bound: float
    hinf: float
    hinf_within: bool
    inputs: tuple[InputResult, ...]
    original: Agreement
    reduced: Agreement
    seconds_original: float
    seconds_reduced: float
    passed: bool
    reason: str


@dataclass(frozen=True)
class Validation:
    """Result of `validate`.

    Attributes:
        layers: one per layer that both models have. length: steps of the inputs. device: where the scans ran.
        max_error: the limit on InputResult.error, None if there was none.
    """

    layers: tuple[LayerValidation, ...]
    length: int
    device: str
    max_error: float | None

    @property
    def passed(self) -> bool:
        return all(layer.passed for layer in self.layers)


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

    Raises:
        MismatchError: the checkpoints do not belong together.
        UsageError: inputs of the wrong shape, no such layer.
        CheckpointError: inputs that cannot be read.
    """
    chosen = linear(original.select(layers))
    partners = _partners(original, reduced, chosen)
    recorded = _recorded_bounds(original, reduced)
    _check_rest(original, reduced, bool(recorded))
    given = None if inputs is None else _read_inputs(Path(inputs))
    target = resolve_device(device)
    results = []
    for layer, partner in zip(chosen, partners, strict=True):
        if progress:
            progress(layer, 0, 1)
        first, second = original.system(layer), reduced.system(partner)
        signals = _signals(layer, length, seed) if given is None else _fit_inputs(given, layer)
        bound = recorded.get(layer.name)
        results.append(_validate_layer(layer, partner, first, second, bound, signals, max_error, target))
        if progress:
            progress(layer, 1, 1)
    steps = length if given is None else given[1].shape[1]
    return Validation(tuple(results), steps, str(target), max_error)


def _partners(original: Model, reduced: Model, chosen: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """The reduced model's layer for every chosen one. Raises MismatchError."""
    theirs = {layer.name: layer for layer in reduced.layers}
    where = f"{original.checkpoint.path} and {reduced.checkpoint.path}"
    if set(theirs) != {layer.name for layer in original.layers}:
        raise MismatchError(
            f"different layers: {_names(original)} against {_names(reduced)}",
            where=where,
            remedy="Give a checkpoint and a reduction of it",
        )
    for layer in chosen:
        other = theirs[layer.name]
        shape, changed = ((x.systems, x.inputs, x.outputs) for x in (layer, other))
        if shape != changed or layer.family != other.family:
            raise MismatchError(
                f"layer {layer.name} is {layer.family} with {shape} systems, inputs, outputs in one and {other.family} "
                f"with {changed} in the other",
                where=where,
                remedy="Give a checkpoint and a reduction of it",
            )
    return tuple(theirs[layer.name] for layer in chosen)


def _names(model: Model) -> str:
    names = [layer.name for layer in model.layers]
    return ", ".join(names[:4]) + (" …" if len(names) > 4 else "")


def _recorded_bounds(original: Model, reduced: Model) -> dict[str, np.ndarray]:
    """Bounds per layer from the reduced checkpoint's record, {} without one. Raises MismatchError: other source."""
    try:
        record = json.loads(reduced.checkpoint.metadata["ssmtool"])
        bounds = {row["name"]: np.array([np.nan if x is None else x for x in row["bound"]]) for row in record["layers"]}
        source = record["source_sha256"]
    except (KeyError, TypeError, ValueError):
        return {}
    if source != original.checkpoint.sha256():
        raise MismatchError(
            f"the reduced checkpoint was made from another one (sha256 {source[:12]}…)",
            where=f"{original.checkpoint.path} and {reduced.checkpoint.path}",
            remedy="Give the checkpoint it was made from",
        )
    return bounds


def _check_rest(original: Model, reduced: Model, recorded: bool) -> None:
    """Everything outside the state-space layers must be the same tensors. Raises MismatchError."""
    outside = []
    for model in (original, reduced):
        # Tensors beside a layer's own are its too: some layouts keep spare copies there that change size with it.
        inside = {_parent(name) for layer in model.layers for name in layer.tensors.values()}
        outside.append({n: t for n, t in model.checkpoint.tensors.items() if _parent(n) not in inside})
    first, second = outside
    differing = [name for name, info in first.items() if name in second and second[name] != info]
    if not recorded and not differing:
        # Without a record only the contents tell whether the two belong together.
        for name in first.keys() & second.keys():
            pieces = zip(original.checkpoint.chunks(name), reduced.checkpoint.chunks(name), strict=True)
            if any(x != y for x, y in pieces):
                differing.append(name)
    if differing:
        raise MismatchError(
            f"weights outside the state-space layers differ: {', '.join(sorted(differing)[:3])}",
            where=f"{original.checkpoint.path} and {reduced.checkpoint.path}",
            remedy="Give a checkpoint and a reduction of it",
        )


def _parent(name: str) -> str:
    return name.replace("/", ".").rpartition(".")[0]


def _read_inputs(path: Path) -> tuple[str, np.ndarray]:
    """Name and content (sequences, L, channels) float64 of an input file. Raises CheckpointError."""
    try:
        data = np.load(path, allow_pickle=False)
        data = np.asarray(data, dtype=np.float64)
    except (OSError, ValueError, TypeError, EOFError) as problem:
        raise CheckpointError(
            f"cannot be read as inputs: {problem}", where=str(path), remedy="Give a .npy file of numbers"
        ) from problem
    if data.ndim == 1:
        data = data[:, None]
    data = data[None] if data.ndim == 2 else data
    if data.ndim != 3 or 0 in data.shape or not np.isfinite(data).all():
        raise CheckpointError(
            f"inputs of shape {data.shape} are not finite numbers (sequences, steps, channels)", where=str(path)
        )
    return path.name, data


def _fit_inputs(given: tuple[str, np.ndarray], layer: Layer) -> dict[str, np.ndarray]:
    """The given inputs as (S, L, m) per sequence. Raises UsageError."""
    name, data = given
    sequences, steps, channels = data.shape
    if channels == layer.systems * layer.inputs:
        shaped = data.reshape(sequences, steps, layer.systems, layer.inputs).transpose(0, 2, 1, 3)
    elif channels in (1, layer.inputs):
        shaped = np.broadcast_to(data[:, None], (sequences, layer.systems, steps, channels))
        shaped = np.broadcast_to(shaped, (*shaped.shape[:3], layer.inputs))
    else:
        raise UsageError(
            f"inputs have {channels} channels, but the layer takes {layer.systems * layer.inputs}",
            where=f"{name}, layer {layer.name}",
            remedy="Give 1 channel, one per input of a system, or one per channel of the layer",
        )
    return {name if sequences == 1 else f"{name}[{i}]": x for i, x in enumerate(shaped)}


def _signals(layer: Layer, length: int, seed: int) -> dict[str, np.ndarray]:
    """White noise, impulse and step, (S, L, m) each."""
    shape = (layer.systems, length, layer.inputs)
    noise = np.random.default_rng(seed).standard_normal((1, length, layer.inputs))
    impulse = np.zeros((1, length, layer.inputs))
    impulse[:, 0] = 1.0
    signals = {"noise": noise, "impulse": impulse, "step": np.ones((1, length, layer.inputs))}
    return {name: np.broadcast_to(x, shape) for name, x in signals.items()}


def _validate_layer(
    layer: Layer,
    partner: Layer,
    first: System,
    second: System,
    recorded: np.ndarray | None,
    signals: dict[str, np.ndarray],
    max_error: float | None,
    device: torch.device,
) -> LayerValidation:
    spectrum = hankel_singular_values(first, str(device))
    norm = np.where(np.isinf(spectrum.sigma), 0.0, spectrum.sigma).max(axis=1)
    hinf = hinf_norm(difference(_bare(first), _bare(second)), str(device))
    bound = recorded
    if bound is None or bound.shape != hinf.shape:
        order = minimal(second).order if isinstance(second, DiagonalSystem) else np.full(layer.systems, second.order)
        bound = tail_bound(spectrum.sigma)[np.arange(layer.systems), order] + _UNRECORDED_ROUNDING * norm
    limit = np.where(np.isnan(bound), hinf, bound) * (1 + 1e-6)
    scale = np.where(norm > 0, norm, 1.0)
    results = []
    agreement = np.zeros((2, 2))
    seconds = np.zeros(2)
    for i, (name, u) in enumerate(signals.items()):
        runs = [_run(system, u, device, timed=i == 0) for system in (first, second)]
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
        seconds_original=float(seconds[0]),
        seconds_reduced=float(seconds[1]),
        passed=not reason,
        reason=reason,
    )


def _bare(system: System) -> System:
    return replace(system, D=np.zeros_like(system.D))


def _run(system: System, u: np.ndarray, device: torch.device, timed: bool):
    """Of one layer and input: scan output (S, L, p), its rounding (S,), deviations of scan and convolution, seconds."""
    systems, steps = u.shape[:2]
    width = system.slots if isinstance(system, DiagonalSystem) else system.order
    batch = max(1, _SCAN_BYTES // (steps * max(width, 1) * 16))
    outputs, noise, deviations, seconds = [], [], np.zeros(2), 0.0
    for start in range(0, systems, batch):
        piece = slice(start, start + batch)
        drive = torch.from_numpy(np.array(u[piece])).to(device)
        exact_scan, fast_scan, convolution = _operations(system, piece, steps, device)
        exact = exact_scan(drive)
        single = drive.float()
        y, elapsed = _best_of(lambda f=fast_scan, v=single: f(v), 3 if timed else 1, device)
        seconds += elapsed if timed else 0.0
        z = convolution(single)
        size = exact.square().sum((1, 2)).sqrt()
        rounding = (y.double() - exact).square().sum((1, 2)).sqrt()
        other = (z.double() - exact).square().sum((1, 2)).sqrt()
        safe = torch.where(size > 0, size, torch.ones_like(size))
        deviations = np.maximum(deviations, [float((rounding / safe).max()), float((other / safe).max())])
        outputs.append(y.double().cpu().numpy())
        noise.append(rounding.cpu().numpy())
    return np.concatenate(outputs), np.concatenate(noise), deviations, seconds


Operation = Callable[[torch.Tensor], torch.Tensor]


def _operations(
    system: System, piece: slice, steps: int, device: torch.device
) -> tuple[Operation, Operation, Operation]:
    """Scan in float64, scan in float32 and convolution in float32 of a batch of systems, each u (s, L, m) -> y."""
    D = torch.from_numpy(system.D[piece]).to(device)
    if isinstance(system, DiagonalSystem):
        a, B, C = (torch.from_numpy(x[piece].astype(np.complex128)).to(device) for x in (system.a, system.B, system.C))
        lam = torch.exp(a)
        single = [x.to(torch.complex64) for x in (lam, B, C)]

        def exact(u: torch.Tensor) -> torch.Tensor:
            return diagonal_scan(lam, B, C, D, u)[0]

        def fast(u: torch.Tensor) -> torch.Tensor:
            return diagonal_scan(single[0], single[1], single[2], D.float(), u)[0]

        if system.inputs * system.outputs > system.slots:

            def convolve(u: torch.Tensor) -> torch.Tensor:
                return diagonal_convolution(a.to(torch.complex64), single[1], single[2], D.float(), u)

            return exact, fast, convolve
    else:
        A, B, C = (torch.from_numpy(x[piece]).to(device) for x in (system.A, system.B, system.C))

        def exact(u: torch.Tensor) -> torch.Tensor:
            return dense_scan(A, B, C, D, u)[0]

        def fast(u: torch.Tensor) -> torch.Tensor:
            return dense_scan(A.float(), B.float(), C.float(), D.float(), u)[0]

    if isinstance(system, DiagonalSystem):
        part = replace(system, a=system.a[piece], B=system.B[piece], C=system.C[piece], D=system.D[piece])
    else:
        part = replace(system, A=system.A[piece], B=system.B[piece], C=system.C[piece], D=system.D[piece])
    kernel = torch.from_numpy(impulse_response(part, steps)).to(device).float()
    return exact, fast, lambda u: kernel_convolution(kernel, u)


def _best_of(run: Callable[[], torch.Tensor], times: int, device: torch.device) -> tuple[torch.Tensor, float]:
    """Result and least wall time in seconds."""
    best = np.inf
    for _ in range(times):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        begin = time.perf_counter()
        result = run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - begin)
    return result, best
