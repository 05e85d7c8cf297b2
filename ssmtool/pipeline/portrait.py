"""Everything a report shows of a model, gathered layer by layer: spectra, poles, responses, sizes, comparisons."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from glob import escape
from typing import Any

import numpy as np

from ssmtool.cache import Cache
from ssmtool.errors import UsageError
from ssmtool.families._contract import Layer
from ssmtool.lti.spectrum import Spectrum
from ssmtool.pipeline.diagnose import Diagnosis, by_depth, diagnose
from ssmtool.pipeline.engines import local
from ssmtool.pipeline.kept_validation import kept_validation
from ssmtool.pipeline.layerwise import layerwise
from ssmtool.pipeline.look import LookWork, counterpart
from ssmtool.pipeline.measured_ranks import Measured, measured_ranks
from ssmtool.pipeline.model import Model
from ssmtool.pipeline.pairing import partners, recorded
from ssmtool.pipeline.partner import Partner, validated
from ssmtool.pipeline.reduction_work import layout
from ssmtool.pipeline.runner import open_runner
from ssmtool.pipeline.samples import Poles, Responses
from ssmtool.pipeline.selective_hsv import LayerCalibration, calibrated_hsv, static_hsv
from ssmtool.pipeline.selective_validate import validate_selective
from ssmtool.pipeline.selective_validation import SelectiveValidation
from ssmtool.pipeline.steps import Step, no_step
from ssmtool.pipeline.storage import layer_bytes
from ssmtool.pipeline.tokens import Tokens, TokenSource, read_tokens
from ssmtool.pipeline.validation import Validation
from ssmtool.selective.language import Runner

POSITIONS = 256  # of the slider, at most
PARTS = ("spectra", "poles", "responses", "sizes", "diagnosis", "comparison")


@dataclass(frozen=True)
class LayerPortrait:
    """One layer.

    Attributes:
        layer: the layer.  bytes: of its tensors.
        spectrum: Hankel singular values of a linear layer.
        calibration: of a selective layer; its `spectra` are empty without tokens.
        poles, reduced_poles: of a linear layer, and of the same layer of the reduced model.
        responses: of a linear layer.
        sizes: predicted bytes per rank of `Portrait.ranks`; empty where they cannot be predicted.
        measured: per rank that was asked for, ascending.
        partner: the layer of the reduced model.
        remarks: what could not be done, a sentence each.
    """

    layer: Layer
    bytes: int
    spectrum: Spectrum | None = None
    calibration: LayerCalibration | None = None
    poles: Poles | None = None
    reduced_poles: Poles | None = None
    responses: Responses | None = None
    sizes: tuple[int, ...] = ()
    measured: tuple[Measured, ...] = ()
    partner: Partner | None = None
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Portrait:
    """Result of `portrait`.

    Attributes:
        model, reduced: the checkpoints.
        layers: those selected, in order of depth.
        ranks: the numbers of states that sizes are predicted for, ascending; the last is the largest order.
        diagnosis: sections of `diagnose`; None where it was not asked for.
        tokens: what selective layers were measured on; None without.
        validation: of the linear layers; None without a reduced model.
        language: comparison of selective models; None without a reduced model or tokens.
        record: what the reduced checkpoint says of how it was made; {} without a record.
        absent: what is missing and why, a sentence each.
    """

    model: Model
    reduced: Model | None
    layers: tuple[LayerPortrait, ...]
    ranks: tuple[int, ...]
    diagnosis: Diagnosis | None
    tokens: Tokens | None
    validation: Validation | None
    language: SelectiveValidation | None
    record: dict[str, Any]
    absent: tuple[str, ...]


def portrait(
    model: Model,
    reduced: Model | None = None,
    *,
    layers: Iterable[str] | None = None,
    ranks: Sequence[int] = (),
    systems: Sequence[int] | None = None,
    source: TokenSource | None = None,
    timings: bool = True,
    parts: Collection[str] = PARTS,
    sections: Iterable[str] | None = None,
    device: str = "auto",
    backend: str = "auto",
    cache: Cache | None = None,
    jobs: int = 1,
    step: Step = no_step,
) -> Portrait:
    """Look at a model from all sides, one layer's weights in memory at a time.

    Args:
        model, reduced: from `ssmtool.load`.
        layers: names or globs; all by default.
        ranks: at which the error of balanced truncation is measured, linear layers only.
        systems: whose responses are sampled; by default those with the largest, median and smallest Hankel norm.
        source: tokens for selective layers.
        timings: run the scans of both models, which tests outputs against bounds and times kernels.
        parts: what is wanted, of PARTS.
        sections: of the diagnosis; all by default.
        device: "auto", "cpu" or "cuda".  backend: of the scans.
        cache: where everything but times is kept, layer by layer or stage by stage; by default nothing is kept.
        jobs: processes that work on a linear layer each, as in `Model.hsv`.
        step: called with (label, done, total, unit).

    Raises:
        UsageError: no such layer or system; a rank below 1; tokens for a model without selective layers.
        MismatchError: the checkpoints do not belong together.
        CheckpointError, FamilyError, CalibrationError: as `load`, `open_runner`, `read_tokens` and `calibrated_hsv`.
    """
    for rank in ranks:
        if rank < 1:
            raise UsageError(f"rank {rank} is not a positive number of states")
    kept = cache or Cache(None)
    selected = model.select(layers)
    selective = [layer for layer in selected if not layer.lti]
    if source is not None and not selective:
        raise UsageError("--tokens, --text and --self are for selective layers, and none is selected")
    runner: Runner | None = None
    tokens: Tokens | None = None
    if source is not None:
        runner = open_runner(model, device)
        tokens = read_tokens(source, model, runner, cache=cache)
    chosen = by_depth(selected, runner)
    linear = [layer for layer in chosen if layer.lti]
    absent: list[str] = []
    pairs: dict[str, Layer] = {}
    if reduced is not None:
        pairs = {a.name: b for a, b in zip(chosen, partners(model, reduced, chosen), strict=True)}
    record = {} if reduced is None else recorded(reduced)
    validation = language = None
    if reduced is not None and "comparison" in parts and timings:
        if linear:
            validation = kept_validation(
                model, reduced, [(layer, pairs[layer.name]) for layer in linear], device=device, backend=backend,
                cache=kept, progress=lambda layer, done, total: step(layer.name, done, total, "comparisons"),
            )  # fmt: skip
        if selective and source is None:
            absent.append("The comparison of selective layers needs tokens: --tokens FILE, --text FILE or --self N.")
        elif selective and source is not None:
            language = validate_selective(
                model, reduced, source, layers=[escape(layer.name) for layer in selective], device=device,
                backend=backend, cache=kept, step=step,
            )  # fmt: skip
    calibrations: dict[str, LayerCalibration] = {}
    if selective and "spectra" in parts:
        names = [escape(layer.name) for layer in selective]
        if runner is None or tokens is None:
            calibrated = static_hsv(model, names)
            absent.append("Calibrated values of selective layers need tokens: --tokens FILE, --text FILE or --self N.")
        else:
            calibrated = calibrated_hsv(model, runner, tokens, names, cache=cache, step=step)
        calibrations = {row.layer.name: row for row in calibrated.layers}
    positions = tuple(rank_positions(max(states_of(layer) for layer in selected)))

    def bar(layer: Layer, done: int, total: int) -> None:
        step(layer.name, done, total, "systems")

    spectra: dict[str, Spectrum] = {}
    if linear and ("spectra" in parts or "responses" in parts):
        names = [escape(layer.name) for layer in linear]
        entries = model.hsv(names, device=device, progress=bar, cache=cache, jobs=jobs)
        spectra = {entry.layer.name: entry.spectrum for entry in entries}
    measured = measured_ranks(model, linear, ranks, device=device, cache=cache, jobs=jobs, progress=bar)
    wanted = {part for part in ("poles", "responses", "sizes") if part in parts}
    if reduced is not None and "comparison" in parts:
        wanted |= {"orders"} if timings else {"orders", "error"}
    form = layout(model)

    def work(number: int) -> LookWork:
        layer = chosen[number]
        other = None
        if reduced is not None and layer.lti:
            other = counterpart(reduced, pairs[layer.name], record)
        norm = hankel_norms(spectra.get(layer.name))
        return LookWork(frozenset(wanted), positions, tuple(systems) if systems else None, norm, form, other)

    looks = layerwise(model, chosen, work, cache=kept, engine=local(jobs), progress=bar)
    rows = []
    for layer, look in zip(chosen, looks, strict=True):
        found, remarks = measured.get(layer.name, ((), ()))
        partner = None
        if reduced is not None and ("comparison" in parts or not layer.lti):
            other = pairs[layer.name]
            error, bound = validated(validation, layer.name)
            orders = np.array([other.slots]) if look.orders is None else look.orders
            size = layer_bytes(reduced, other, {})[0]
            partner = Partner(other.slots, orders, size, look.error if validation is None else error, bound)
        rows.append(
            LayerPortrait(
                layer,
                layer_bytes(model, layer, {})[0],
                spectra.get(layer.name),
                calibrations.get(layer.name),
                look.poles,
                look.reduced_poles,
                look.responses,
                look.sizes,
                found,
                partner,
                remarks,
            )
        )
    diagnosis = None
    if "diagnosis" in parts:
        diagnosis = diagnose(
            model, sections, layers=layers, runner=runner, tokens=tokens, cache=cache, engine=local(jobs), step=step
        )
    return Portrait(
        model, reduced, tuple(rows), positions, diagnosis, tokens, validation, language, record, tuple(absent)
    )


def hankel_norms(spectrum: Spectrum | None) -> np.ndarray | None:
    """(S,) sigma_1 of what is stable in each system."""
    if spectrum is None:
        return None
    return np.where(np.isinf(spectrum.sigma), 0.0, spectrum.sigma).max(axis=1, initial=0.0)


def states_of(layer: Layer) -> int:
    """What a rank counts: states of a system, or of a channel of a selective layer."""
    return layer.order if layer.lti else layer.slots


def rank_positions(most: int) -> list[int]:
    """1 ... most, or POSITIONS of them that lie closer where there are few states."""
    if most <= POSITIONS:
        return list(range(1, most + 1))
    return sorted({int(r) for r in np.geomspace(1, most, POSITIONS).round()} | {most})
