"""A checkpoint in, a smaller checkpoint of the same family out, with what was lost."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from ssmtool.cache import Cache
from ssmtool.checkpoint import Rewrite
from ssmtool.errors import OutputError, ReductionError, UsageError
from ssmtool.lti.systems import DiagonalSystem
from ssmtool.pipeline.allocate import shared_out
from ssmtool.pipeline.allocation import AllocateOptions, Allocation, checked_options
from ssmtool.pipeline.compression import Compression, LayerReduction, card, provenance
from ssmtool.pipeline.cuts import Cuts
from ssmtool.pipeline.engines import Engine, local
from ssmtool.pipeline.layerwise import layerwise
from ssmtool.pipeline.live import Build
from ssmtool.pipeline.methods import How, checked
from ssmtool.pipeline.model import LayerProgress, Model, family_of, linear
from ssmtool.pipeline.reduction_work import ReductionWork, layout
from ssmtool.pipeline.refine import RefineOptions, Step
from ssmtool.pipeline.refine_checkpoint import refine_checkpoint
from ssmtool.pipeline.resume import Resume, code_digest
from ssmtool.pipeline.storage import Tensors, layer_bytes, store, stored_widths
from ssmtool.pipeline.targets import Asked, asked
from ssmtool.pipeline.workbench import Workbench
from ssmtool.reductions._contract import Result, Target


def compress(
    model: Model,
    output: str | Path | None,
    *,
    rank: int | None = None,
    energy: float | None = None,
    error: float | None = None,
    budget: float | None = None,
    method: str | None = None,
    score: str = "last",
    horizon: int | None = None,
    band: tuple[float, float] | None = None,
    residues: bool = False,
    inputs: np.ndarray | None = None,
    build: Build | None = None,
    refine: RefineOptions | None = None,
    control: bool = False,
    allocate: AllocateOptions | None = None,
    layers: Iterable[str] | None = None,
    per_layer: bool = False,
    pad_to: int | None = None,
    dry_run: bool = False,
    device: str = "auto",
    progress: LayerProgress | None = None,
    cache: Cache | None = None,
    jobs: int = 1,
    engine: Engine | None = None,
    step: Step = lambda name, done, total: None,
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
        method: a reduction's name, or "best": per layer the one with the least measured error. None is "balanced", and
            "time_limited" to the length of `inputs` where the result is refined: a better start.
        score, horizon, band: of the methods that take them, see `How`.
        residues: refit the output weights of the result on the original's impulse response.
        inputs: (K, L, ...) what the model is used on, without labels: for calibrated methods and for `refine`.
        build: makes the model of a state_dict, for running it on `inputs`; None for the reference models.
        refine: fit the reduced layers to the original on `inputs`; rank then counts stored slots, two states each.
        control: the same fit on white noise beside it, to show what the data are worth.
        allocate: share the states of `rank` or `budget` out among layers and channels; by default all get the same.
        layers: names or globs of the layers to reduce; all by default.
        per_layer: let layers have different state sizes. By default every reduced layer gets the size the largest
            needs, so that the original model code loads the result with one state size changed.
        pad_to: store a multiple of so many slots.
        dry_run: everything but the writing.
        device, progress, cache, jobs, engine: as in `Model.hsv`; they are about the reduction of layers, not about
            calibration, allocation and refinement.
        step: called with (layer or "model", steps done, steps) during the refinement.

    Raises:
        UsageError: not exactly one target, or one out of range; a method without what it needs.
        ReductionError: the target cannot be met, or nothing would become smaller.
        CalibrationError: inputs that determine nothing.
        CheckpointError, FamilyError, OutputError: reading, interpreting or writing fails.
    """
    chosen = linear(model.select(layers))
    wish = asked(chosen, rank=rank, energy=energy, error=error, budget=budget)
    by_name = method is not None
    if refine is not None:
        if inputs is None:
            raise UsageError("a refinement needs calibration inputs", remedy="Give --calibrate FILE")
        if method is None:
            method, horizon = "time_limited", horizon or inputs.shape[1]
    how = How(method or "balanced", score, horizon, band, residues, refine is not None, by_name)
    how = checked(how, calibrated=inputs is not None)
    if allocate is not None:
        given = {"rank": rank, "budget": budget, "energy": energy, "error": error}
        checked_options(allocate, next(name for name, value in given.items() if value is not None), inputs)
    if pad_to is not None and pad_to < 1:
        raise UsageError(f"--pad-to {pad_to} is not a positive number of slots")
    with ExitStack() as stack:
        rewrite, destination = None, Path()
        if not dry_run:
            destination = Path(output or default_output(model, wish.word))
            rewrite = stack.enter_context(Rewrite(model.checkpoint, destination))
        # Hashing gigabytes takes as long as reducing them: both at once.
        digest = stack.enter_context(ThreadPoolExecutor(1)).submit(model.checkpoint.sha256)
        bench = None if inputs is None else Workbench(model, build, inputs)
        allocation, targets = None, wish.targets
        if allocate is not None and allocate.kind != "uniform":
            cuts = Cuts(model, chosen, how, bench, per_layer=per_layer, pad_to=pad_to, device=device)
            allocation = shared_out(cuts, wish.targets, allocate, bench, step, cache)
            targets = tuple(Target("rank", ranks) for ranks in allocation.kept.ranks)
        engine = engine or local(jobs)
        place, form = engine.device(device), layout(model)

        def work(number: int) -> ReductionWork:
            seen = None if bench is None or how.method == "subset" else bench.seen(chosen[number], how)
            return ReductionWork(targets[number], how, seen, place, form)

        done: list[tuple[LayerReduction, Result]] = layerwise(
            model, chosen, work, cache=cache or Cache(None), engine=engine, progress=progress
        )
        widths = stored_widths(chosen, [row.slots for row, _ in done], per_layer=per_layer, pad_to=pad_to)
        if all(
            width >= layer.slots and not layer.constraints.export for (layer, width) in zip(chosen, widths, strict=True)
        ):
            raise _nothing_smaller(done, wish.description)
        rows: list[LayerReduction] = []
        stored: dict[str, Tensors] = {}
        config = model.checkpoint.config
        for (row, result), width in zip(done, widths, strict=True):
            if width >= row.layer.slots and not row.layer.constraints.export:
                rows.append(_untouched(row, result))
                continue
            stored[row.layer.name] = tensors = store(model, row.layer, result.system, width)
            bytes_before, bytes_after = layer_bytes(model, row.layer, tensors)
            rows.append(replace(row, slots=width, bytes_before=bytes_before, bytes_after=bytes_after))
            if config is not None:
                config = family_of(row.layer).reduced_config(config, row.layer, width)
        refinement = noise = None
        resume = None
        if refine is not None and bench is not None:
            if rewrite is not None:
                facts = {"source": digest.result(), "inputs": bench.digest, "target": _target(wish, allocation)}
                facts |= {**vars(how), "slots": [(row.layer.name, row.slots) for row in rows]}
                facts |= {"model code": code_digest(build)}
                resume = Resume(_left_beside(destination), {**facts, **vars(refine)})
            rows, stored, refinement, noise = refine_checkpoint(
                bench, rows, stored, config, refine, control=control, device=device, step=step, resume=resume
            )
        change = sum(row.bytes_after - row.bytes_before for row in rows)
        before = model.checkpoint.data_bytes
        summary = Compression(
            source=model.checkpoint.path,
            output=None,
            target=_target(wish, allocation),
            layers=tuple(rows),
            bytes_before=before,
            bytes_after=before + change,
            source_sha256=digest.result(),
            how=how,
            refinement=refinement,
            control=noise,
            allocation=allocation,
        )
        if rewrite is None:
            return summary
        for tensors in stored.values():
            for name, (array, dtype) in tensors.items():
                rewrite.drop(name) if array is None else rewrite.put(name, array, dtype)
        rewrite.config = config
        rewrite.metadata = {"ssmtool": json.dumps(provenance(summary))}
        rewrite.card = card(summary)
        try:
            path = rewrite.commit()
        except OutputError:
            if resume is not None and os.path.lexists(
                destination
            ):  # another run was faster: nothing is left to go on to
                resume.forget()
            raise
        if resume is not None:
            resume.forget()
        return replace(summary, output=Path(path), skipped=tuple(rewrite.skipped))


def _target(wish: Asked, allocation: Allocation | None) -> str:
    """What was asked for, and how it was shared out."""
    return wish.description + ("" if allocation is None else f", {allocation.kept.name} allocation")


def _left_beside(destination: Path) -> Path:
    """The file an interrupted refinement goes on from."""
    return destination.with_name(f".{destination.name}.refine")


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
