"""One layer: reduced by one method or the best of several, unstable states kept, measured as it would be stored."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ssmtool import plugins
from ssmtool.errors import ReductionError
from ssmtool.families._contract import Layer
from ssmtool.lti.norms import difference, h2_norm, hinf_norm
from ssmtool.lti.residues import refit_residues
from ssmtool.lti.slots import least_slots
from ssmtool.lti.split import join, split
from ssmtool.lti.stability import unstable_states
from ssmtool.lti.systems import DiagonalSystem, System, without_feedthrough
from ssmtool.pipeline.compression import LayerReduction
from ssmtool.pipeline.methods import BEST, REDUCTIONS, How, candidates
from ssmtool.pipeline.model import Model
from ssmtool.pipeline.output_error import output_error
from ssmtool.pipeline.storage import coarsest_dtype, reread, store, tensor_bytes
from ssmtool.reductions._contract import Options, Result, Seen, Target

_TIE = 1.01  # errors within one per cent are equal: the simpler method stays


def reduce_layer(
    model: Model,
    layer: Layer,
    system: System,
    target: Target,
    how: How,
    *,
    seen: Seen | None = None,
    device: str = "auto",
    progress=None,
) -> tuple[LayerReduction, Result]:
    """The reduction of one layer, and the errors of what would be stored.

    States on or outside the unit circle have no Hankel singular values: they are set aside, the stable part is reduced
    to what is left of the target, and both are stored side by side.

    Raises:
        ReductionError: the target cannot be met, or every state is unstable.
    """
    options = Options(how.score, how.horizon, how.band, seen, _free_feedthrough(layer))
    unstable = unstable_states(system)
    kept, note = None, ()
    if unstable.any():
        system, kept = split(system)
        note = (
            f"{int(unstable.sum())} states of {int((unstable > 0).sum())} of {layer.systems} systems are on or outside "
            "the unit circle: kept as they are, the stable part is reduced",
        )
        if target.kind == "rank":
            target = Target("rank", np.maximum(np.broadcast_to(target.value, unstable.shape) - unstable, 0))
    names = candidates(layer, how, options)
    found: list[tuple[float, LayerReduction, Result]] = []
    refused: list[ReductionError] = []
    for name in names:
        try:
            row, result, stored = _met(model, layer, system, kept, target, name, how, options, device, progress)
        except ReductionError as error:
            if len(names) == 1:
                raise
            refused.append(error)
            continue
        score = _score(system, stored, row, seen) if len(names) > 1 or how.method == BEST else 0.0
        found.append((score, row, replace(result, system=join(result.system, kept))))
    if not found:
        raise refused[0]
    least = min(score for score, _, _ in found)
    row, result = next(f[1:] for f in found if f[0] <= least * _TIE)
    tried = tuple((r.method, s) for s, r, _ in found) if how.method == BEST else ()
    return replace(row, remarks=note + row.remarks, tried=tried), result


def _free_feedthrough(layer: Layer) -> bool:
    """Whether any D can be stored: one number per system can, of a matrix only the diagonal."""
    return layer.inputs == 1 and layer.outputs == 1


def _score(system: System, stored: System, row: LayerReduction, seen: Seen | None) -> float:
    """What the best method has least of: the output error on calibration data, else the H2 error, over all systems."""
    if seen is not None:
        return output_error(system, stored, seen)
    return float(np.sqrt(np.square(row.h2).sum() / max(np.square(row.h2_norm).sum(), 1e-300)))


def _met(
    model: Model,
    layer: Layer,
    system: System,
    kept: DiagonalSystem | None,
    target: Target,
    name: str,
    how: How,
    options: Options,
    device: str,
    progress,
) -> tuple[LayerReduction, Result, System]:
    """One method on the stable part, and what would be stored of it.

    The bound of --error says nothing about storage: more is asked for until what is stored meets it.
    """
    reduction = plugins.load(REDUCTIONS, name)
    best, tightened = np.inf, target
    for _ in range(4 if target.kind == "error" else 1):
        result = reduction.reduce(system, tightened, options=options, device=device, progress=progress)
        if how.least_slots and not layer.constraints.real_poles:
            packed = least_slots(system, result.system, result.orders, how.horizon, device)
            slots = ((packed.B != 0).any(axis=2) & (packed.C != 0).any(axis=1)).sum(axis=1)
            result = replace(result, system=packed, slots=slots, bound=np.full_like(result.bound, np.nan))
        if how.residues and name != "subset":
            better = refit_residues(system, result.system, how.horizon, device)
            nothing = np.full_like(result.bound, np.nan)
            result = replace(result, system=better, bound=nothing, diagonal_error=0.0)
        row, stored = measure(model, layer, system, kept, result, name, device)
        best = min(best, row.hinf_relative)
        if target.kind != "error" or row.hinf_relative <= target.share:
            return row, result, stored
        tightened = Target("error", tightened.share / 4)
    raise ReductionError(
        f"the error {target.share:g} cannot be met: the best reachable is {best:.2g} (H-infinity error relative to the "
        "Hankel norm)",
        where=layer.name,
        remedy=f"Rounding to the stored {coarsest_dtype(model, layer)} is part of the error; ask for a larger one",
    )


def measure(
    model: Model, layer: Layer, system: System, kept: DiagonalSystem | None, result: Result, name: str, device: str
) -> tuple[LayerReduction, System]:
    """Errors of the reduced layer as it would be stored and read again, and its stable part as read.

    Args:
        system: the stable part.  kept: the rest, or None; it is stored beside, and its rounding is not measured.
        result: of a method on the stable part.
    """
    whole = join(result.system, kept)
    used = (whole.B != 0).any(axis=2) | (whole.C != 0).any(axis=1)
    width = max(1, int(result.slots.max(initial=1)), int(used.sum(axis=1).max(initial=1)))
    stored = reread(model, layer, store(model, layer, whole, width))
    if kept is not None:
        stored = split(stored)[0]
    error = difference(system, stored)
    size = sum(tensor_bytes(model.checkpoint.tensors[tensor]) for tensor in layer.tensors.values())
    states: int | np.ndarray = 0
    if kept is not None:
        states = ((kept.B != 0).any(axis=2) | (kept.C != 0).any(axis=1)).sum(axis=1) * (1 if kept.real else 2)
    row = LayerReduction(
        layer=layer,
        method=name,
        slots=width,
        orders=result.orders + states,
        hankel_norm=result.spectrum.sigma[:, 0],
        # By the triangle inequality: original to truncation (a priori) plus truncation to what is stored (measured).
        bound=result.bound + result.diagonal_error + hinf_norm(difference(result.system, stored), device),
        hinf=hinf_norm(error, device),
        h2=h2_norm(error, device),
        h2_norm=h2_norm(without_feedthrough(system), device),
        bytes_before=size,
        bytes_after=size,
        remarks=result.remarks + ((layer.note,) if layer.note and layer.constraints.export else ()),
    )
    return row, stored
