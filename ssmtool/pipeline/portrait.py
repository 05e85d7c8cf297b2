"""Everything a report shows of a model, gathered layer by layer: spectra, poles, responses, sizes, comparisons."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ssmtool.cache import Cache
from ssmtool.errors import UsageError
from ssmtool.families._contract import Layer
from ssmtool.lti.spectrum import Spectrum
from ssmtool.lti.systems import System
from ssmtool.pipeline.diagnose import Diagnosis, by_depth, diagnose
from ssmtool.pipeline.measured_ranks import Measured, measured_ranks
from ssmtool.pipeline.model import Model
from ssmtool.pipeline.pairing import partners
from ssmtool.pipeline.partner import Partner, compared
from ssmtool.pipeline.predicted_size import predicted_sizes
from ssmtool.pipeline.runner import open_runner
from ssmtool.pipeline.samples import Poles, Responses, sample_poles, sample_responses
from ssmtool.pipeline.selective_hsv import LayerCalibration, calibrated_hsv, static_hsv
from ssmtool.pipeline.selective_validate import validate_selective
from ssmtool.pipeline.selective_validation import SelectiveValidation
from ssmtool.pipeline.storage import layer_bytes
from ssmtool.pipeline.tokens import Tokens, TokenSource, read_tokens
from ssmtool.pipeline.validate import validate
from ssmtool.pipeline.validation import Validation
from ssmtool.selective.language import Runner

POSITIONS = 256  # of the slider, at most
PARTS = ("spectra", "poles", "responses", "sizes", "diagnosis", "comparison")

Step = Callable[[str, int, int, str], None]


def _no_step(label: str, done: int, total: int, unit: str) -> None:
    """Progress nobody watches."""


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
    step: Step = _no_step,
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
        cache, jobs: as in `Model.hsv`; for Hankel singular values and measured ranks.
        step: called with (label, done, total, unit).

    Raises:
        UsageError: no such layer or system; a rank below 1; tokens for a model without selective layers.
        MismatchError: the checkpoints do not belong together.
        CheckpointError, FamilyError, CalibrationError: as `load`, `open_runner`, `read_tokens` and `calibrated_hsv`.
    """
    for rank in ranks:
        if rank < 1:
            raise UsageError(f"rank {rank} is not a positive number of states")
    selected = model.select(layers)
    linear = [layer for layer in selected if layer.lti]
    selective = [layer for layer in selected if not layer.lti]
    if source is not None and not selective:
        raise UsageError("--tokens, --text and --self are for selective layers, and none is selected")
    runner: Runner | None = None
    tokens: Tokens | None = None
    if source is not None:
        runner = open_runner(model, device)
        tokens = read_tokens(source, model, runner)
    chosen = by_depth(selected, runner)
    absent: list[str] = []
    pairs: dict[str, Layer] = {}
    if reduced is not None:
        pairs = {a.name: b for a, b in zip(chosen, partners(model, reduced, chosen), strict=True)}
    record = {} if reduced is None else recorded(reduced)
    validation = language = None
    if reduced is not None and "comparison" in parts and timings:
        if linear:
            validation = validate(
                model, reduced, layers=[literal(layer.name) for layer in linear], device=device, backend=backend,
                progress=lambda layer, done, total: step(layer.name, done, total, "comparisons"),
            )  # fmt: skip
        if selective and source is None:
            absent.append("the comparison of selective layers needs tokens: --tokens FILE, --text FILE or --self N")
        elif selective and source is not None:
            language = validate_selective(
                model, reduced, source, layers=[literal(layer.name) for layer in selective], device=device,
                backend=backend, step=step,
            )  # fmt: skip
    calibrations: dict[str, LayerCalibration] = {}
    if selective and "spectra" in parts:
        names = [literal(layer.name) for layer in selective]
        if runner is None or tokens is None:
            calibrated = static_hsv(model, names)
            absent.append("calibrated values of selective layers need tokens: --tokens FILE, --text FILE or --self N")
        else:
            calibrated = calibrated_hsv(model, runner, tokens, names, step=step)
        calibrations = {row.layer.name: row for row in calibrated.layers}
    positions = rank_positions(max(states_of(layer) for layer in selected))

    def bar(layer: Layer, done: int, total: int) -> None:
        step(layer.name, done, total, "systems")

    spectra: dict[str, Spectrum] = {}
    if linear and ("spectra" in parts or "responses" in parts):
        names = [literal(layer.name) for layer in linear]
        entries = model.hsv(names, device=device, progress=bar, cache=cache, jobs=jobs)
        spectra = {entry.layer.name: entry.spectrum for entry in entries}
    measured = measured_ranks(model, linear, ranks, device=device, cache=cache, jobs=jobs, progress=bar)
    rows = []
    for done, layer in enumerate(chosen):
        step(layer.name, done, len(chosen), "layers")
        row = LayerPortrait(layer, layer_bytes(model, layer, {})[0], calibration=calibrations.get(layer.name))
        partner = pairs.get(layer.name)
        if layer.lti:
            found, remarks = measured[layer.name]
            row = replace(row, spectrum=spectra.get(layer.name), measured=found, remarks=remarks)
            other = None if reduced is None or partner is None else reduced.system(partner)
            row = _linear(row, model, other, positions, systems, parts)
            if reduced is not None and partner is not None and other is not None and "comparison" in parts:
                row = replace(
                    row, partner=compared(row, model.system(layer), other, reduced, partner, validation, record)
                )
        else:
            if "sizes" in parts:
                row = replace(row, sizes=tuple(predicted_sizes(model, layer, model.mixers(layer), positions)))
            if reduced is not None and partner is not None:
                size = layer_bytes(reduced, partner, {})[0]
                row = replace(row, partner=Partner(partner.slots, np.array([partner.slots]), size, None, None))
        rows.append(row)
    diagnosis = None
    if "diagnosis" in parts:
        diagnosis = diagnose(model, layers=layers, runner=runner, tokens=tokens, step=step)
    return Portrait(
        model, reduced, tuple(rows), tuple(positions), diagnosis, tokens, validation, language, record, tuple(absent)
    )  # fmt: skip


def states_of(layer: Layer) -> int:
    """What a rank counts: states of a system, or of a channel of a selective layer."""
    return layer.order if layer.lti else layer.slots


def rank_positions(most: int) -> list[int]:
    """1 ... most, or POSITIONS of them that lie closer where there are few states."""
    if most <= POSITIONS:
        return list(range(1, most + 1))
    return sorted({int(r) for r in np.geomspace(1, most, POSITIONS).round()} | {most})


def recorded(reduced: Model) -> dict[str, Any]:
    """The record `compress` left in a checkpoint, {} where there is none that can be read."""
    try:
        record = json.loads(reduced.checkpoint.metadata["ssmtool"])
    except (KeyError, TypeError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _linear(
    row: LayerPortrait,
    model: Model,
    other: System | None,
    positions: Sequence[int],
    systems: Sequence[int] | None,
    parts: Collection[str],
) -> LayerPortrait:
    """Poles, responses and sizes of one linear layer."""
    layer = row.layer
    system = model.system(layer)
    if "poles" in parts:
        row = replace(row, poles=sample_poles(system), reduced_poles=None if other is None else sample_poles(other))
    if "responses" in parts and row.spectrum is not None:
        norm = np.where(np.isinf(row.spectrum.sigma), 0.0, row.spectrum.sigma).max(axis=1, initial=0.0)
        row = replace(row, responses=sample_responses(system, norm, other, systems))
    if "sizes" in parts:
        row = replace(row, sizes=tuple(predicted_sizes(model, layer, system, positions)))
    return row


def literal(name: str) -> str:
    """The glob that matches this name alone."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
