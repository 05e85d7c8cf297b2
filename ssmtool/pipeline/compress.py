"""A checkpoint in, a smaller checkpoint of the same family out, with what was lost."""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from ssmtool import plugins
from ssmtool.checkpoint import Rewrite
from ssmtool.errors import ReductionError, UnstableError, UsageError
from ssmtool.families._contract import Layer
from ssmtool.lti.norms import difference, h2_norm, hinf_norm
from ssmtool.lti.stability import unstable_states
from ssmtool.lti.systems import DiagonalSystem, System, without_feedthrough
from ssmtool.pipeline.compression import Compression, LayerReduction, card, provenance
from ssmtool.pipeline.model import LayerProgress, Model, family_of, linear
from ssmtool.pipeline.storage import coarsest_dtype, layer_bytes, reread, store, tensor_bytes
from ssmtool.reductions._contract import Result, Target

REDUCTIONS = "ssmtool.reductions"


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
            tensors = store(model, row.layer, result.system, width)
            bytes_before, bytes_after = layer_bytes(model, row.layer, tensors)
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
    """<input>-<word> beside the input; of a model in the hub cache, in the working directory."""
    path = model.checkpoint.path
    if path.name in ("", ".."):  # "." and the like have no name to derive one from
        path = path.resolve()
    if model.checkpoint.kind != "directory":
        return path.with_name(f"{path.stem}-{word}.safetensors")
    if path.parent.name == "snapshots":
        return Path(f"{path.parent.parent.name.rpartition('--')[2]}-{word}")
    return path.with_name(f"{path.name}-{word}")


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
    chosen = Target("energy" if kind == "energy" else "error", value)
    return [chosen] * len(layers), f"{kind} {value:g}", f"{kind}{value:g}"


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
        if method not in ("balanced", "subset"):
            raise ReductionError(
                f"its layout shares poles among channels or stores real ones, which --method {method} cannot respect",
                where=layer.name,
                remedy="Use --method subset",
            )
        method = "subset"  # balanced truncation moves the poles of every channel; the result says what was done
    reduction = plugins.load(REDUCTIONS, method)
    best, tightened = np.inf, target
    # The bound of --error says nothing about the rounding of storage: ask for more until what is stored meets it.
    for _ in range(4 if target.kind == "error" else 1):
        result = reduction.reduce(system, tightened, device=device, progress=progress)
        row = _measure(model, layer, system, result, method, device)
        best = min(best, row.hinf_relative)
        if target.kind != "error" or row.hinf_relative <= target.share:
            return row, result
        tightened = Target("error", tightened.share / 4)
    raise ReductionError(
        f"the error {target.share:g} cannot be met: the best reachable is {best:.2g} (H-infinity error relative to the "
        "Hankel norm)",
        where=layer.name,
        remedy=f"Rounding to the stored {coarsest_dtype(model, layer)} is part of the error; ask for a larger one",
    )


def _measure(model: Model, layer: Layer, system: System, result: Result, method: str, device: str) -> LayerReduction:
    """Errors of the reduced layer as it would be stored and read again."""
    width = max(1, int(result.slots.max(initial=1)))
    stored = reread(model, layer, store(model, layer, result.system, width))
    error = difference(without_feedthrough(system), without_feedthrough(stored))
    size = sum(tensor_bytes(model.checkpoint.tensors[name]) for name in layer.tensors.values())
    return LayerReduction(
        layer=layer,
        method=method,
        slots=width,
        orders=result.orders,
        hankel_norm=result.spectrum.sigma[:, 0],
        # By the triangle inequality: original to truncation (a priori) plus truncation to what is stored (measured).
        bound=result.bound
        + result.diagonal_error
        + hinf_norm(difference(without_feedthrough(result.system), without_feedthrough(stored)), device),
        hinf=hinf_norm(error, device),
        h2=h2_norm(error, device),
        h2_norm=h2_norm(without_feedthrough(system), device),
        bytes_before=size,
        bytes_after=size,
        remarks=result.remarks + ((layer.note,) if layer.note and layer.constraints.export else ()),
    )


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
