"""What compress would make of some layers, nothing written: sizes and measured errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ssmtool.checks.record import ReducedRow

if TYPE_CHECKING:
    from ssmtool.checks.subject import Bench
    from ssmtool.families._contract import Layer
    from ssmtool.pipeline.compression import LayerReduction
    from ssmtool.pipeline.reduction_work import ReductionWork
    from ssmtool.reductions._contract import Result


def would_reduce(bench: Bench, group: Sequence[Layer], kind: str, value: float, method: str) -> dict[str, ReducedRow]:
    """By name, as `compress` with the defaults: one state size per family and variant.

    Unlike there, a target that makes nothing smaller is no error: such layers count as they are; so does a layer that
    the target is out of reach for, with the reason.
    """
    from ssmtool.pipeline.methods import How
    from ssmtool.pipeline.reduction_work import ReductionWork, layout
    from ssmtool.pipeline.storage import layer_bytes, store, stored_widths, tensor_bytes
    from ssmtool.pipeline.targets import asked

    model = bench.model
    wish = asked(group, **{kind: value})
    how, place, form = How(method, by_name=method != "balanced"), bench.engine.device(bench.device), layout(model)
    works = [ReductionWork(goal, how, None, place, form) for goal in wish.targets]
    rows: dict[str, ReducedRow] = {}
    done: list[tuple[ReducedRow, LayerReduction, Result]] = []
    for layer, found in zip(group, _reductions(bench, group, works), strict=True):
        size = sum(tensor_bytes(model.checkpoint.tensors[name]) for name in layer.tensors.values())
        states = layer.systems * layer.order
        as_is = ReducedRow(f"{kind} {value:g}", method, size, size, states, states, 0.0, 0.0)
        if isinstance(found, str):
            rows[layer.name] = replace(as_is, reason=found)
        else:
            done.append((as_is, *found))
    slots = [row.slots for _, row, _ in done]
    widths = stored_widths([row.layer for _, row, _ in done], slots, per_layer=False, pad_to=None)
    for (as_is, row, result), width in zip(done, widths, strict=True):
        layer = row.layer
        if width >= layer.slots and not layer.constraints.export:
            minimal = as_is.states_before - int(result.spectrum.redundant.sum())
            rows[layer.name] = replace(as_is, states_after=minimal)
            continue
        before, after = layer_bytes(model, layer, store(model, layer, result.system, width))
        rows[layer.name] = replace(
            as_is,
            bytes_before=before,
            bytes_after=after,
            states_after=int(row.orders.sum()),
            hinf=row.hinf_relative,
            h2=row.h2_relative,
        )
    return rows


def would_reduce_selective(bench: Bench, kind: str, value: float) -> dict[str, ReducedRow]:
    """By name, all selective layers as `compress --refit 0` on the tokens; errors are of the weighted scan output.

    A fit would lower the error, and take minutes. A target that makes nothing smaller leaves layers as they are.

    Raises:
        CalibrationError: too few tokens for the states.
        Unmeasured: no tokens.
    """
    from ssmtool.errors import ReductionError
    from ssmtool.pipeline.selective_compress import compress_selective
    from ssmtool.pipeline.storage import tensor_bytes
    from ssmtool.selective.refit import RefitOptions

    model = bench.model
    runner, tokens = bench.tokens()
    layers = [layer for layer in model.layers if not layer.lti]
    rows = {}
    for layer in layers:
        size = sum(tensor_bytes(model.checkpoint.tensors[name]) for name in layer.tensors.values())
        states = layer.systems * layer.slots
        rows[layer.name] = ReducedRow(f"{kind} {value:g}", "balanced", size, size, states, states, 0.0, 0.0)
    if kind == "rank" and value == max(layer.slots for layer in layers):
        return rows
    goal: dict[str, Any] = {kind: value}
    options = RefitOptions(steps=0)
    try:
        done = compress_selective(
            model, runner, tokens, None, dry_run=True, options=options, cache=bench.cache, step=bench.step, **goal
        )
    except ReductionError as error:
        return {name: replace(row, reason=error.line()) for name, row in rows.items()}
    for row in done.layers:
        rows[row.layer.name] = replace(
            rows[row.layer.name],
            bytes_before=row.bytes_before,
            bytes_after=row.bytes_after,
            states_after=row.layer.systems * row.states,
            hinf=row.scan_error,
            h2=row.scan_error,
        )
    return rows


def _reductions(
    bench: Bench, group: Sequence[Layer], works: Sequence[ReductionWork]
) -> list[tuple[LayerReduction, Result] | str]:
    """Per layer its reduction, or why there is none."""
    from ssmtool.errors import ReductionError
    from ssmtool.pipeline.layerwise import layerwise

    def run(layers: Sequence[Layer], chosen: Sequence[ReductionWork]) -> list[tuple[LayerReduction, Result]]:
        return layerwise(
            bench.model,
            layers,
            lambda number: chosen[number],
            cache=bench.cache,
            engine=bench.engine,
            progress=lambda layer, done, total: bench.step(layer.name, done, total, "systems"),
        )

    try:
        return list(run(group, works))
    except ReductionError:  # of one of them; what is known of the others is in the cache
        found: list[tuple[LayerReduction, Result] | str] = []
        for layer, work in zip(group, works, strict=True):
            try:
                found += run([layer], [work])
            except ReductionError as error:
                found.append(error.line())
        return found
