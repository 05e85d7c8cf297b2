"""Impulse responses in, a checkpoint of state-space layers in the neutral format out, with what was lost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ssmtool.checkpoint import TensorInfo
from ssmtool.checkpoint.dtypes import BITS
from ssmtool.checkpoint.fresh import NewFile
from ssmtool.errors import ReductionError, UsageError
from ssmtool.lti.factors import parallel, resolve_device
from ssmtool.pipeline.lags import Lags, lags_of
from ssmtool.pipeline.neutral_tensors import neutral_tensors, side_by_side
from ssmtool.pipeline.numbers import read_numbers
from ssmtool.pipeline.realisation import RECORD, LayerRealisation, Realised, record
from ssmtool.pipeline.realise_one import AAK_MOST, METHODS, MOST, Candidate, Solver, best_of
from ssmtool.pipeline.steps import Step
from ssmtool.reductions._contract import Target

DTYPES = {"float32": "F32", "float64": "F64"}


def realize(
    kernel: str | Path,
    output: str | Path | None = None,
    *,
    rank: int | None = None,
    energy: float | None = None,
    error: float | None = None,
    method: str = "best",
    tensors: Sequence[str] | None = None,
    axes: str | None = None,
    feedthrough: bool = False,
    dtype: str | None = None,
    dry_run: bool = False,
    device: str = "auto",
    step: Step | None = None,
) -> Realised:
    """State-space models of the impulse responses in a file.

    Args:
        kernel: .npy, .npz, text, or a checkpoint; see `read_numbers`.
        output: a .safetensors file that must not exist; None derives "<name>-<target>.safetensors" beside the input.
        rank: most states per system.
        energy: share of the sum of the response's Hankel singular values to keep, in (0, 1).
        error: largest H-infinity error relative to sigma_1, measured on the stored tensors.
        method: "balanced", "era", "aak", or "best": per system the one with the least error over the lags, or for an
            error target the one that needs the fewest states.
        tensors: names or globs, for files with several arrays.
        axes: how arrays are read, e.g. "LS"; see `lags.AXES`.
        feedthrough: keep h_0 as D and realise the rest.
        dtype: "float32" or "float64"; by default float32 for what is in single precision or less, else float64.
        dry_run: everything but the writing.
        device: of the decompositions.
        step: called with (layer, systems done, systems, "systems").

    Raises:
        UsageError: not exactly one target, or one out of range; axes or names that do not fit.
        ReductionError: the target cannot be met.
        CheckpointError, OutputError: reading or writing fails.
    """
    target, word = _target(rank=rank, energy=energy, error=error)
    if method not in (*METHODS, "best"):
        raise UsageError(f"there is no method {method!r}", remedy=f"Methods: best, {', '.join(METHODS)}")
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"there is no dtype {dtype!r} for the output", remedy=f"Use {' or '.join(DTYPES)}")
    file = read_numbers(kernel, tensors)
    lags = lags_of(file, axes, None if dtype is None else DTYPES[dtype])
    for item in lags:
        _check(item, target, feedthrough)
    destination = Path(output) if output is not None else _beside(file.path, word)
    place = None if dry_run else NewFile(destination)
    where = str(resolve_device(device))
    done = [_layer(item, target, method, feedthrough, where, step) for item in lags]
    summary = Realised(file, None, f"{target.kind} {target.value:g}", tuple(layer for layer, _ in done))
    if place is None:
        return summary
    stored = {name: tensor for _, mine in done for name, tensor in mine.items()}
    path = place.write(stored, {"format": "pt", RECORD: json.dumps(record(summary))})
    return replace(summary, output=path)


def _layer(
    item: Lags, target: Target, method: str, feedthrough: bool, device: str, step: Step | None
) -> tuple[LayerRealisation, dict[str, tuple[np.ndarray, str]]]:
    """One array: the models of its systems, measured, and their tensors."""
    methods = METHODS if method == "best" else (method,)
    systems, p, m, length = item.h.shape

    def solve(piece: slice) -> tuple[Candidate, float, float, np.ndarray]:
        try:
            solver = Solver(item.h[piece.start], item.dtype, feedthrough, device, single=item.single)
            found = _solve(solver, target, methods)
        except ReductionError as problem:
            which = f"{item.name}, system {piece.start}" if systems > 1 else item.name
            raise ReductionError(problem.what, where=which, remedy=problem.remedy) from problem
        return found, solver.least(found), solver.hankel_norm, solver.spectrum.sigma

    progress = None if step is None else (lambda done, total: step(item.name, done, total, "systems"))
    pieces = [slice(s, s + 1) for s in range(systems)]
    results = parallel(solve, pieces, resolve_device(device), progress)
    found = [result[0] for result in results]
    tensors = neutral_tensors(item.name, side_by_side([c.system for c in found]), item.dtype, item.batch)
    sizes = [TensorInfo(x.shape, dtype).size * BITS[dtype] // 8 for x, dtype in tensors.values()]
    row = LayerRealisation(
        name=item.name,
        axes=item.axes,
        systems=systems,
        outputs=p,
        inputs=m,
        length=length,
        batch=item.batch,
        dtype=item.dtype,
        methods=tuple(c.method for c in found),
        slots=max([1, *(c.slots for c in found)]),
        orders=np.array([c.order for c in found]),
        sigma=tuple(result[3] for result in results),
        hankel_norm=np.array([result[2] for result in results]),
        least=np.array([result[1] for result in results]),
        bound=np.array([c.bound for c in found]),
        hinf=np.array([c.error.hinf for c in found]),
        lags=np.array([c.error.lags for c in found]),
        beyond=np.array([c.error.beyond for c in found]),
        norm=np.sqrt(np.square(item.h).sum(axis=(1, 2, 3))),
        bytes=sum(sizes),
        remarks=(*item.remarks, *_remarks(found, target, item)),
    )
    return row, tensors


def _solve(solver: Solver, target: Target, methods: tuple[str, ...]) -> Candidate:
    solver.start(target, "aak" in methods)
    several = len(methods) > 1
    if target.kind == "error":
        limit, found, reached, most = target.share * solver.hankel_norm, None, np.inf, solver.most
        for name in methods:
            better, least = solver.smallest(name, limit, min(most, AAK_MOST) if several and name == "aak" else most)
            reached = min(reached, least)
            if better is not None:
                found, most = better, max(0, better.order - 1)
        if found is not None:
            return found
        raise ReductionError(
            f"the error {target.share:g} cannot be met with {solver.most} states: the best found is "
            f"{reached / (solver.hankel_norm or 1.0):.2g} (H-infinity error relative to the Hankel norm)",
            remedy="Ask for a larger error, use another --method, or --dtype float64 near the rounding of float32",
        )
    order = target.rank if target.kind == "rank" else solver.order_for_energy(target.share)
    if target.kind == "energy" and "aak" in methods and solver.spectrum.count < 2 * order <= 2 * AAK_MOST:
        solver.prepare(2 * order + 16)
    tried = [name for name in methods if not (several and name == "aak" and order > AAK_MOST)]
    return best_of([solver.candidate(name, order) for name in tried])


def _target(**given: float | None) -> tuple[Target, str]:
    """The target and the word for a derived file name. Raises UsageError."""
    asked = {kind: value for kind, value in given.items() if value is not None}
    if len(asked) != 1:
        raise UsageError(f"{len(asked)} targets given", remedy="Give exactly one of --rank, --energy and --error")
    kind, value = next(iter(asked.items()))
    if kind == "rank":
        if value < 1:
            raise UsageError(f"--rank {value:g} is not a positive number of states")
        return Target("rank", value), f"rank{value:g}"
    if kind == "error":
        if not 0 < value < float("inf"):
            raise UsageError(f"--error {value:g} is not a positive number")
        return Target("error", value), f"error{value:g}"
    if not 0 < value < 1:
        raise UsageError(f"--energy {value:g} is not between 0 and 1")
    return Target("energy", value), f"energy{value:g}"


def _check(item: Lags, target: Target, feedthrough: bool) -> None:
    """Targets that cannot be met, before any work. Raises UsageError."""
    _, p, m, length = item.h.shape
    if feedthrough and length < 2:
        raise UsageError("has one lag, and --feedthrough leaves none to realise", where=item.name)
    if target.kind == "rank":
        most = Solver(item.h[0], item.dtype, feedthrough, "cpu").most
        if target.rank > most:
            lags = f"{length} lags, {p} outputs and {m} inputs"
            limit = f"is above {MOST}, the most for so long a response" if most == MOST else f"is above {most}"
            raise UsageError(f"rank {target.rank} {limit} ({lags})", where=item.name, remedy="Give a smaller --rank")


def _remarks(found: list[Candidate], target: Target, item: Lags) -> list[str]:
    moved = [c for c in found if c.moved]
    remarks = []
    if moved:
        remarks.append(
            f"{len(moved)} of {len(found)} systems had poles on or outside the unit circle, because the lags do not "
            "decay: these were moved just inside, and the response goes on long after the last lag"
        )
    if target.kind == "rank":
        fewer = sum(c.order < target.rank - 1 for c in found)
        if fewer:
            remarks.append(f"{fewer} of {len(found)} systems need fewer states than asked for")
    if not np.abs(item.h).max(axis=(1, 2, 3)).all():
        remarks.append("a response is 0 throughout: its system is 0")
    return remarks


def _beside(path: Path, word: str) -> Path:
    """<name>-<word>.safetensors beside the input; of a model in the hub cache, in the working directory."""
    path = path.resolve() if path.name in ("", "..") else path
    if path.parent.name == "snapshots":
        return Path(f"{path.parent.parent.name.rpartition('--')[2]}-{word}.safetensors")
    return path.with_name(f"{path.stem if path.is_file() else path.name}-{word}.safetensors")
