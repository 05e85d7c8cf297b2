"""Two selective language models run side by side on the same tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, fields
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ssmtool.cache import Cache
from ssmtool.families._contract import Layer
from ssmtool.lti.factors import resolve_device
from ssmtool.pipeline.calibrate import BATCH
from ssmtool.pipeline.language import Decoding, compare, decoding_speeds, device_of
from ssmtool.pipeline.model import Model
from ssmtool.pipeline.pairing import check_rest, partners, record_of
from ssmtool.pipeline.runner import open_runner
from ssmtool.pipeline.scans import resolved
from ssmtool.pipeline.selective_hsv import on_runner, selected
from ssmtool.pipeline.selective_scans import ScanCheck, check_scans
from ssmtool.pipeline.selective_validation import LayerDifference, Limits, SelectiveValidation
from ssmtool.pipeline.stages import Arrays, Stage, Stages, ran_by
from ssmtool.pipeline.steps import Step, no_step
from ssmtool.pipeline.tokens import TokenSource, read_tokens, spread_rows
from ssmtool.selective.language import LanguageModel, Runner
from ssmtool.selective.measure import Difference
from ssmtool.selective.mixers import Mixer
from ssmtool_kernels.backends import preferring

MEASURED = 32  # sequences on which the layers are compared
TIMED = 4  # sequences on which the scans are timed and held against float64
PROMPT = 32  # tokens read before decoding is timed


def validate_selective(
    original: Model,
    reduced: Model,
    source: TokenSource,
    *,
    limits: Limits | None = None,
    layers: Iterable[str] | None = None,
    device: str = "auto",
    backend: str = "auto",
    cache: Cache | None = None,
    step: Step = no_step,
) -> SelectiveValidation:
    """Run both models on the same tokens and compare what they predict, and every layer on the original's stream.

    Args:
        original, reduced: from `ssmtool.load`. Both are held in memory at a time.
        source: tokens; what is sampled is sampled from the original.
        limits: above which the validation fails.
        layers: names or globs of the layers to compare; the predictions are those of the whole models.
        device: "auto", "cpu" or "cuda".
        backend: what runs the scans: "auto", "naive", "cpu", "triton" or "torch".
        cache: where sums over sequences are kept, and found again; nowhere by default. Scans are always run and timed.
        step: progress.

    Raises:
        MismatchError: the checkpoints do not belong together.
        UsageError: no such layer; tokens that the models cannot read; a backend that cannot run here.
        FamilyError, CheckpointError: as `open_runner`.
    """
    running = resolved(backend, resolve_device(device))
    with preferring(running):
        return _validate(original, reduced, source, limits or Limits(), layers, device, running, cache, step)


def _validate(
    original: Model,
    reduced: Model,
    source: TokenSource,
    limits: Limits,
    layers: Iterable[str] | None,
    device: str,
    backend: str,
    cache: Cache | None,
    step: Step,
) -> SelectiveValidation:
    chosen = selected(original, layers)
    matching = partners(original, reduced, chosen)
    predicted = recorded_prediction(original, reduced)
    check_rest(original, reduced, predicted is not None)
    before, after = open_runner(original, device), open_runner(reduced, device)
    tokens = read_tokens(source, original, before, cache=cache)
    stages = Stages(cache, ran_by(before), (original, reduced), tokens.array, backend)
    language = compare(
        before, after, tokens.array, stages=stages,
        progress=lambda done, total: step("predicting", done, total, "sequences"),
    )  # fmt: skip
    rows = spread_rows(tokens.array, MEASURED)
    differences, checks = _differences(
        original, reduced, list(zip(chosen, matching, strict=True)), before, rows, backend,
        stages.stage("layer differences", [layer.name for layer in chosen]),
        lambda done, total: step("comparing layers", done, total, "sequences"),
    )  # fmt: skip
    found = tuple(
        LayerDifference(
            name=layer.name,
            states=(layer.slots, partner.slots),
            predicted=(predicted or {}).get(layer.name, float("nan")),
            scan_error=difference.scan_error,
            out_error=difference.out_error,
            scan=check,
        )
        for layer, partner, difference, check in zip(chosen, matching, differences, checks, strict=True)
    )
    return SelectiveValidation(
        layers=found,
        tokens=tokens,
        language=language,
        state_bytes=(state_bytes(original), state_bytes(reduced)),
        decoding=_decoding(before, after, tokens.array),
        measured_sequences=len(rows),
        limits=limits,
        device=str(device_of(before)),
        backend=backend,
        timed=(min(TIMED, len(rows)), rows.shape[1]),
    )


def recorded_prediction(original: Model, reduced: Model) -> dict[str, float] | None:
    """Predicted error by layer from the reduced checkpoint's record; None without one.

    Raises:
        MismatchError: it was made from another checkpoint.
    """
    record = record_of(original, reduced)
    try:
        return {str(name): float(error) for name, error in record["predicted_error"].items()}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None


@torch.no_grad()
def _differences(
    original: Model,
    reduced: Model,
    pairs: list[tuple[Layer, Layer]],
    runner: Runner,
    rows: np.ndarray,
    backend: str,
    stage: Stage,
    progress: Callable[[int, int], None],
) -> tuple[list[Difference], list[ScanCheck]]:
    """What every reduced layer does differently where the original's stream reaches it, and both scans alone.

    Sums are kept. The first batch is run whatever was kept: times are of now.
    """
    names = [layer.name for layer, _ in pairs]
    kept = stage.recall_sums(len(rows), partial(_restored, names))
    begin, differences = kept or (0, {name: Difference() for name in names})
    start = 0
    first = on_runner({layer.name: original.mixers(layer) for layer, _ in pairs}, runner)
    second = on_runner({layer.name: reduced.mixers(partner) for layer, partner in pairs}, runner)
    own = isinstance(runner, LanguageModel)
    checks: dict[str, ScanCheck] = {}

    def visit(name: str, x: Tensor, _: Tensor) -> Tensor | None:
        if name not in differences:
            return None
        x = x.to(first[name][0].out)
        if name not in checks:
            checks[name] = check_scans(first[name], second[name], x[:TIMED], backend)
        sums = differences[name] if start >= begin else Difference()
        added = sums.update(first[name], second[name], x)
        # A model run by other code must stay as it is; our own need not compute the same thing twice.
        return added if own else None

    for start in (0, *range(begin or BATCH, len(rows), BATCH)):
        part = torch.from_numpy(rows[start : start + BATCH].astype(np.int64))
        runner.logits(part.to(device_of(runner)), visit)
        done = max(begin, min(start + BATCH, len(rows)))
        if done > begin:
            stage.keep_sums(done, len(rows), lambda: {"sums": np.array([astuple(s) for s in differences.values()])})
        progress(done, len(rows))
    return list(differences.values()), [checks[name] for name in differences]


def _restored(names: Sequence[str], kept: Arrays) -> dict[str, Difference]:
    """The sums by layer that were kept. Raises KeyError, ValueError: they are not of these layers."""
    rows = kept["sums"].reshape(len(names), len(fields(Difference))).tolist()
    return {name: Difference(*row) for name, row in zip(names, rows, strict=True)}


def state_bytes(model: Model) -> int:
    """What the selective layers carry from token to token for one sequence in float32: states and convolution tails."""
    mixers = (mixer for layer in model.layers if not layer.lti for mixer in model.mixers(layer))
    return sum(4 * (mixer.state_size + _tail(mixer)) for mixer in mixers)


def _tail(mixer: Mixer) -> int:
    if mixer.conv is None:
        return 0
    channels, taps = mixer.conv.shape
    return channels * (taps - 1)


def _decoding(before: Runner, after: Runner, tokens: np.ndarray) -> tuple[Decoding, Decoding] | None:
    """Speed of both, where the project's own code runs them and nothing reads backwards."""
    if not isinstance(before, LanguageModel) or not isinstance(after, LanguageModel):
        return None
    if any(mixer.reverse for parts in before.mixers.values() for mixer in parts):
        return None
    prompt = torch.from_numpy(tokens[:1, :PROMPT].astype(np.int64)).to(device_of(before))
    first, second = decoding_speeds((before, after), prompt)
    return first, second
