"""A checkpoint in, a smaller checkpoint of the same family out, with what was lost."""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ssmtool import __version__, plugins
from ssmtool.checkpoint import Rewrite, TensorInfo, round_to
from ssmtool.errors import ReductionError, UnstableError, UsageError
from ssmtool.families._contract import Layer
from ssmtool.lti.norms import difference, h2_norm, hinf_norm
from ssmtool.lti.stability import unstable_states
from ssmtool.lti.systems import DiagonalSystem, System
from ssmtool.pipeline.model import LayerProgress, Model, family_of, find_layers, linear
from ssmtool.reductions._contract import Result, Target

REDUCTIONS = "ssmtool.reductions"
_STORED = {"BF16": 1 / 256, "F16": 1 / 2048, "F32": 2.0**-24, "F64": 2.0**-53, "C64": 2.0**-24, "C128": 2.0**-53}


@dataclass(frozen=True)
class LayerReduction:
    """What became of one layer. Errors are those of the tensors as stored, rounding included.

    Attributes:
        layer: the original layer.
        method: reduction that was used ("" if the layer was left as it is).
        slots: stored modes per system after the reduction.
        orders: (S,) states of each reduced system.
        hankel_norm: (S,) sigma_1 of the original.
        bound: (S,) certified bound on the H-infinity error: a priori bound of the truncation plus the measured error of
            storing its result (diagonal form and rounding); NaN where the method gives no bound.
        hinf: (S,) measured H-infinity error.
        h2: (S,) measured H2 error.  h2_norm: (S,) H2 norm of the original, without D.
        bytes_before, bytes_after: of the layer's state-space tensors.
        remarks: what the user should know.
    """

    layer: Layer
    method: str
    slots: int
    orders: np.ndarray
    hankel_norm: np.ndarray
    bound: np.ndarray
    hinf: np.ndarray
    h2: np.ndarray
    h2_norm: np.ndarray
    bytes_before: int
    bytes_after: int
    remarks: tuple[str, ...] = ()

    @property
    def bound_relative(self) -> float:
        """Largest bound of a system relative to its Hankel norm (NaN without a bound)."""
        return _worst(self.bound, self.hankel_norm)

    @property
    def hinf_relative(self) -> float:
        """Largest measured H-infinity error of a system relative to its Hankel norm."""
        return _worst(self.hinf, self.hankel_norm)

    @property
    def h2_relative(self) -> float:
        """Largest measured H2 error of a system relative to its H2 norm."""
        return _worst(self.h2, self.h2_norm)


@dataclass(frozen=True)
class Compression:
    """Result of `compress`.

    Attributes:
        source: the input.  output: the new checkpoint (None for a dry run).
        target: what was asked for, e.g. "rank 16".
        layers: one entry per state-space layer that was selected.
        bytes_before, bytes_after: tensor bytes of the whole checkpoint.
        source_sha256: hash of the input.
        skipped: files of the input that did not go along.
    """

    source: Path
    output: Path | None
    target: str
    layers: tuple[LayerReduction, ...]
    bytes_before: int
    bytes_after: int
    source_sha256: str
    skipped: tuple[str, ...] = ()


def compress(
    model: Model,
    output: str | Path | None,
    *,
    rank: int | None = None,
    energy: float | None = None,
    error: float | None = None,
    budget: float | None = None,
    method: str = "balanced",
    layers: Iterable[str] | None = None,
    per_layer: bool = False,
    dry_run: bool = False,
    device: str = "auto",
    progress: LayerProgress | None = None,
) -> Compression:
    """Reduce the state of the selected layers and write a checkpoint of the same family.

    Args:
        model: from `ssmtool.load`.
        output: destination, which must not exist; None derives "<name>-<target>" beside the input.
        rank: states of the real input-output system to keep per system.
        energy: share of the sum of Hankel singular values to keep, in (0, 1).
        error: largest H-infinity error relative to the Hankel norm, met through the a priori bound and checked on the
            stored tensors.
        budget: share of all states to keep, in (0, 1): the same share of every layer.
        method: a reduction's name.
        layers: names or globs of the layers to reduce; all by default.
        per_layer: let layers have different state sizes. By default every reduced layer gets the size the largest
            needs, so that the original model code loads the result with one state size changed.
        dry_run: everything but the writing.
        device, progress: as in `Model.hsv`.

    Raises:
        UsageError: not exactly one target, or one out of range.
        UnstableError: a selected layer has an eigenvalue on or outside the unit circle.
        ReductionError: the target cannot be met, or nothing would become smaller.
        CheckpointError, FamilyError, OutputError: reading, interpreting or writing fails.
    """
    chosen = linear(model.select(layers))
    targets, description, word = _targets(chosen, rank=rank, energy=energy, error=error, budget=budget)
    if method not in plugins.names(REDUCTIONS):
        raise UsageError(f"there is no method {method!r}", remedy=f"Methods: {', '.join(plugins.names(REDUCTIONS))}")
    with ExitStack() as stack:
        rewrite = None
        if not dry_run:
            rewrite = stack.enter_context(Rewrite(model.checkpoint, output or default_output(model, word)))
        # Hashing gigabytes takes as long as reducing them: both at once.
        digest = stack.enter_context(ThreadPoolExecutor(1)).submit(model.checkpoint.sha256)
        done: list[tuple[LayerReduction, Result]] = []
        for layer, target in zip(chosen, targets, strict=True):
            step = None if progress is None else (lambda n, total, layer=layer: progress(layer, n, total))
            done.append(_reduce(model, layer, target, method, device, step))
        widths = _widths(done, per_layer)
        if all(
            width >= layer.slots and not layer.constraints.export for (layer, width) in zip(chosen, widths, strict=True)
        ):
            raise _nothing_smaller(done, description)
        rows: list[LayerReduction] = []
        config = model.checkpoint.config
        for (row, result), width in zip(done, widths, strict=True):
            if width >= row.layer.slots and not row.layer.constraints.export:
                rows.append(_untouched(row, result))
                continue
            tensors = _store(model, row.layer, result.system, width)
            bytes_before, bytes_after = _bytes(model, row.layer, tensors)
            rows.append(replace(row, slots=width, bytes_before=bytes_before, bytes_after=bytes_after))
            if rewrite is not None:
                for name, (array, dtype) in tensors.items():
                    rewrite.drop(name) if array is None else rewrite.put(name, array, dtype)
            if config is not None:
                config = family_of(row.layer).reduced_config(config, row.layer, width)
        change = sum(row.bytes_after - row.bytes_before for row in rows)
        before = model.checkpoint.data_bytes
        sha256 = digest.result()
        summary = Compression(model.checkpoint.path, None, description, tuple(rows), before, before + change, sha256)
        if rewrite is None:
            return summary
        rewrite.config = config
        rewrite.metadata = {"ssmtool": json.dumps(provenance(summary))}
        rewrite.card = card(summary)
        path = rewrite.commit()
        return replace(summary, output=Path(path), skipped=tuple(rewrite.skipped))


def default_output(model: Model, word: str) -> Path:
    """ "<input>-<word>" beside the input; pickles become .safetensors."""
    path = model.checkpoint.path.resolve()
    if model.checkpoint.kind == "directory":
        return (
            Path.cwd() / f"{path.name}-{word}" if "snapshots" in path.parts else path.with_name(f"{path.name}-{word}")
        )
    return path.with_name(f"{path.stem}-{word}.safetensors")


def provenance(summary: Compression) -> dict[str, Any]:
    """What is written into the new checkpoint's metadata under the key "ssmtool"."""
    return {
        "version": __version__,
        "target": summary.target,
        "source_sha256": summary.source_sha256,
        "layers": [
            {
                "name": row.layer.name,
                "method": row.method,
                "slots": row.slots,
                "orders": [int(row.orders.min()), int(row.orders.max())],
                "bound": [None if np.isnan(x) else float(f"{x:.7g}") for x in row.bound],
                "hinf_error": float(f"{row.hinf.max():.6g}"),
                "hinf_error_relative": float(f"{row.hinf_relative:.6g}"),
                "h2_error_relative": float(f"{row.h2_relative:.6g}"),
            }
            for row in summary.layers
        ],
    }


def card(summary: Compression) -> str:
    """Markdown section for a README.md."""
    lines = [
        "## State reduction",
        "",
        f"State-space layers reduced with ssmtool {__version__} ({summary.target}); tensor bytes "
        f"{summary.bytes_before:,} → {summary.bytes_after:,}; source sha256 `{summary.source_sha256}`.",
        "",
        "| layer | method | slots | states | bound / σ₁ | H∞ error / σ₁ | H2 error, relative |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in summary.layers:
        lines.append(
            f"| {row.layer.name} | {row.method or 'unchanged'} | {row.layer.slots} → {row.slots} "
            f"| {row.layer.order} → {row.orders.max()} | {row.bound_relative:.2e} | {row.hinf_relative:.2e} "
            f"| {row.h2_relative:.2e} |"
        )
    return "\n".join(lines) + "\n"


def _targets(layers: tuple[Layer, ...], **given: float | None) -> tuple[list[Target], str, str]:
    """One target per layer, its description, and the word for a derived file name. Raises UsageError."""
    asked = {kind: value for kind, value in given.items() if value is not None}
    if len(asked) != 1:
        raise UsageError(
            f"{len(asked)} targets given", remedy="Give exactly one of --rank, --energy, --error and --budget"
        )
    kind, value = next(iter(asked.items()))
    if kind == "rank":
        for layer in layers:
            if not 1 <= value <= layer.order:
                raise UsageError(
                    f"rank {value:g} is not between 1 and the order {layer.order}",
                    where=layer.name,
                    remedy="--rank counts states of the real system: a conjugate pair counts two",
                )
        return [Target("rank", value)] * len(layers), f"rank {value:g}", f"rank{value:g}"
    if kind == "error" and not 0 < value < float("inf"):
        raise UsageError(f"--error {value:g} is not a positive number")
    if kind in ("energy", "budget") and not 0 < value < 1:
        raise UsageError(f"--{kind} {value:g} is not between 0 and 1")
    if kind == "budget":
        orders = [max(1, int(value * layer.order + 1e-9)) for layer in layers]
        return [Target("rank", r) for r in orders], f"budget {value:g}", f"budget{value:g}"
    return [Target(kind, value)] * len(layers), f"{kind} {value:g}", f"{kind}{value:g}"  # type: ignore[arg-type]


def _reduce(
    model: Model, layer: Layer, target: Target, method: str, device: str, progress
) -> tuple[LayerReduction, Result]:
    """One layer: its reduction, and the errors of what would be stored."""
    arrays = model.arrays(layer)
    system = family_of(layer).to_system(layer, arrays)
    unstable = unstable_states(system)
    if unstable.any():
        raise UnstableError(
            f"{int(unstable.sum())} states of {int((unstable > 0).sum())} of {layer.systems} systems have an "
            "eigenvalue on or outside the unit circle and cannot be truncated",
            where=layer.name,
            remedy="Leave the layer out with --layers; ssmtool hsv shows these states",
        )
    if layer.constraints.shared_poles or layer.constraints.real_poles:
        method = "subset"
    reduction = plugins.load(REDUCTIONS, method)
    best, tightened = np.inf, target
    # The bound of --error says nothing about the rounding of storage: ask for more until what is stored meets it.
    for _ in range(4 if target.kind == "error" else 1):
        result = reduction.reduce(system, tightened, device=device, progress=progress)
        row = _measure(model, layer, system, result, method, device)
        best = min(best, row.hinf_relative)
        if target.kind != "error" or row.hinf_relative <= target.value:
            return row, result
        tightened = Target("error", tightened.value / 4)
    raise ReductionError(
        f"the error {target.value:g} cannot be met: the best reachable is {best:.2g} (H-infinity error relative to the "
        "Hankel norm)",
        where=layer.name,
        remedy=f"Rounding to the stored {_dtype(model, layer)} is part of the error; ask for a larger one",
    )


def _measure(model: Model, layer: Layer, system: System, result: Result, method: str, device: str) -> LayerReduction:
    """Errors of the reduced layer as it would be stored and read again."""
    width = max(1, int(result.slots.max(initial=1)))
    stored = _reread(model, layer, _store(model, layer, result.system, width))
    error = difference(_without_feedthrough(system), _without_feedthrough(stored))
    size = sum(_tensor_bytes(model.checkpoint.tensors[name]) for name in layer.tensors.values())
    return LayerReduction(
        layer=layer,
        method=method,
        slots=width,
        orders=result.orders,
        hankel_norm=result.spectrum.sigma[:, 0],
        # By the triangle inequality: original to truncation (a priori) plus truncation to what is stored (measured).
        bound=result.bound
        + result.diagonal_error
        + hinf_norm(difference(_without_feedthrough(result.system), _without_feedthrough(stored)), device),
        hinf=hinf_norm(error, device),
        h2=h2_norm(error, device),
        h2_norm=h2_norm(_without_feedthrough(system), device),
        bytes_before=size,
        bytes_after=size,
        remarks=result.remarks + ((layer.note,) if layer.note and layer.constraints.export else ()),
    )


def _store(model: Model, layer: Layer, system: DiagonalSystem, width: int) -> dict[str, tuple[np.ndarray | None, str]]:
    """Tensors of the reduced layer, name -> (values or None for "drop", dtype)."""
    family: ModuleType = family_of(layer)
    arrays = model.arrays(layer)
    fallback = _dtype(model, layer)
    out = {}
    for name, array in family.from_system(layer, arrays, _widened(system, width)).items():
        full = layer.tensors.get(name, name)
        known = model.checkpoint.tensors.get(full)
        out[full] = (array, known.dtype if known else fallback)
    return out


def _reread(model: Model, layer: Layer, tensors: dict[str, tuple[np.ndarray | None, str]]) -> System:
    """The layer found and interpreted again from what would be stored."""
    infos = dict(model.checkpoint.tensors)
    for name, (array, dtype) in tensors.items():
        if array is None:
            infos.pop(name, None)
        else:
            infos[name] = TensorInfo(tuple(array.shape), dtype)
    again = {found.name: found for found in find_layers(infos, model.checkpoint.config, (layer.family,))}[layer.name]
    arrays = {}
    for role, name in again.tensors.items():
        array, dtype = tensors.get(name, (None, ""))
        arrays[role] = model.checkpoint.read(name) if array is None else round_to(array, dtype)
    return family_of(again).to_system(again, arrays)


def _widened(system: DiagonalSystem, width: int) -> DiagonalSystem:
    """The same systems with exactly `width` slots; extra ones have B = C = 0."""
    a, B, C = system.a[:, :width], system.B[:, :width], system.C[:, :, :width]
    extra = width - a.shape[1]
    if extra > 0:
        a = np.pad(a, ((0, 0), (0, extra)), constant_values=-1.0)
        B, C = np.pad(B, ((0, 0), (0, extra), (0, 0))), np.pad(C, ((0, 0), (0, 0), (0, extra)))
    return replace(system, a=a, B=B, C=C)


def _without_feedthrough(system: System) -> System:
    return replace(system, D=np.zeros_like(system.D))


def _widths(done: list[tuple[LayerReduction, Result]], per_layer: bool) -> list[int]:
    """Slots each layer is stored with: its own, or the largest of its family."""
    own = [row.slots for row, _ in done]
    if per_layer:
        return own
    key = [(row.layer.family, row.layer.variant) for row, _ in done]
    largest = {k: max(w for w, other in zip(own, key, strict=True) if other == k) for k in key}
    return [largest[k] for k in key]


def _untouched(row: LayerReduction, result: Result) -> LayerReduction:
    """A layer that would not become smaller is left byte for byte."""
    zero = np.zeros_like(row.hinf)
    full = np.full_like(row.orders, row.layer.order) - result.spectrum.redundant
    return replace(
        row,
        method="",
        slots=row.layer.slots,
        orders=full,
        bound=zero,
        hinf=zero,
        h2=zero,
        remarks=("left unchanged: the target needs all its slots",),
    )


def _nothing_smaller(done: list[tuple[LayerReduction, Result]], description: str) -> ReductionError:
    """No layer would shrink: name the layer that is nearest, and what dropping states of it would cost."""
    row, result = min(done, key=lambda d: d[0].slots / d[0].layer.slots)
    sigma = result.spectrum.sigma
    step = 1 if isinstance(result.system, DiagonalSystem) and result.system.real else 2
    count = max(0, int(result.orders.max()) - step)
    scale = np.where(sigma[:, 0] > 0, sigma[:, 0], 1.0)
    cost = float((2 * sigma[:, count:].sum(axis=1) / scale).max())
    return ReductionError(
        f"{description} makes no layer smaller: {row.layer.name} needs {row.slots} of its {row.layer.slots} slots for "
        "it (a real pole takes a slot of its own)",
        remedy=f"Ask for less: the best reachable with a smaller state ({count} states) has the error bound {cost:.2g} "
        "relative to the Hankel norm",
    )


def _dtype(model: Model, layer: Layer) -> str:
    """The coarsest floating dtype among the layer's tensors."""
    dtypes = {model.checkpoint.tensors[name].dtype for name in layer.tensors.values()} & set(_STORED)
    return max(dtypes, key=lambda d: (_STORED[d], d.startswith("F"))) if dtypes else "F32"


def _bytes(
    model: Model, layer: Layer, tensors: dict[str, tuple[np.ndarray | None, str]]
) -> tuple[int, int]:
    """Bytes of the layer's state-space tensors before and after the rewrite.

    Tensors that are rewritten without being read (copies that some layouts keep) belong to them.
    """
    stored = model.checkpoint.tensors
    before = {name: stored[name] for name in {*layer.tensors.values(), *tensors} if name in stored}
    after = {name: info for name, info in before.items() if name not in tensors}
    after |= {name: TensorInfo(tuple(x.shape), dtype) for name, (x, dtype) in tensors.items() if x is not None}
    return sum(map(_tensor_bytes, before.values())), sum(map(_tensor_bytes, after.values()))


def _tensor_bytes(info: TensorInfo) -> int:
    from ssmtool.checkpoint.dtypes import BITS

    return info.size * BITS[info.dtype] // 8


def _worst(error: np.ndarray, scale: np.ndarray) -> float:
    """Largest error / scale; a system whose scale is 0 counts only if its error is not."""
    ratio = np.divide(error, scale, out=np.where(error > 0, np.inf, 0.0), where=scale > 0)
    return float(ratio.max(initial=0.0))
