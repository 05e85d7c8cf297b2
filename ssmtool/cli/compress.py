"""ssmtool compress: a checkpoint with smaller states."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ssmtool.cli._drop_blocks import drop
from ssmtool.cli._options import (
    AddressOption,
    CacheOption,
    Device,
    DeviceOption,
    EngineName,
    EngineOption,
    FamilyOption,
    JobsOption,
    JsonOption,
    LayerOption,
    ModelArgument,
    NoCacheOption,
    checked_device,
    chosen_cache,
    chosen_engine,
    examples,
    not_for_selective,
    quiet_option,
)
from ssmtool.cli._output import emit
from ssmtool.cli._progress import Bar
from ssmtool.cli._reduction import (
    AllocateOption,
    BandOption,
    CalibrateOption,
    ChannelOption,
    CodeOption,
    ControlOption,
    FinalOption,
    HorizonOption,
    LabelsOption,
    MethodOption,
    OutputsOption,
    PadOption,
    RefineOption,
    ResiduesOption,
    ScoreOption,
    parsed_band,
)
from ssmtool.cli._selective import selective_compress
from ssmtool.cli._tokens import (
    BytesOption,
    LengthOption,
    SeedOption,
    SelfOption,
    SequencesOption,
    TextOption,
    TokensOption,
    token_source,
)
from ssmtool.selective.choices import Export, Select

EXAMPLES = examples(
    "ssmtool compress model.safetensors --rank 16",
    "ssmtool compress model.safetensors --error 1e-3 --dry-run",
    "ssmtool compress model.safetensors --rank 8 --method best",
    "ssmtool compress model.safetensors --rank 8 --refine 300 --calibrate inputs.npy",
    "ssmtool compress model.safetensors --rank 12 --allocate best --per-layer --calibrate x.npy",
    "ssmtool compress mamba2-370m --rank 64 --tokens calibration.npy",
    "ssmtool compress mamba2-370m --rank 32 --export projected --self 128",
    "ssmtool compress mamba2-370m --drop-blocks 12 --tokens calibration.npy",
    "ssmtool compress checkpoints/run-7 --energy 0.99 --layers 'layers.[0-3]' -o smaller",
)


def command(
    model: ModelArgument,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="Where to write; must not exist. Default: beside MODEL, its name followed by the target.",
        ),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(
            "--rank", metavar="N", help="States to keep per system; a complex conjugate pair of modes counts two."
        ),
    ] = None,
    energy: Annotated[
        float | None,
        typer.Option(
            "--energy", metavar="SHARE", help="Share of the sum of Hankel singular values to keep, between 0 and 1."
        ),
    ] = None,
    error: Annotated[
        float | None,
        typer.Option(
            "--error",
            metavar="X",
            help="Largest H-infinity error of a system, relative to its largest Hankel singular value.",
        ),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            "--budget", metavar="SHARE", help="Share of the states to keep, between 0 and 1; the same in every layer."
        ),
    ] = None,
    method: MethodOption = None,
    score: ScoreOption = "last",
    horizon: HorizonOption = None,
    band: BandOption = None,
    residues: ResiduesOption = False,
    calibrate: CalibrateOption = None,
    model_code: CodeOption = None,
    refine: RefineOption = None,
    final: FinalOption = None,
    outputs: OutputsOption = None,
    control: ControlOption = False,
    allocate: AllocateOption = "uniform",
    per_channel: ChannelOption = False,
    labels: LabelsOption = None,
    pad_to: PadOption = None,
    export: Annotated[
        Export | None,
        typer.Option(
            "--export",
            help="Selective models: stock, an ordinary checkpoint with a smaller state size, or projected, original "
            "weights with projectors (Mamba-2; see docs/runtime.md). Default: stock.",
        ),
    ] = None,
    select: Annotated[
        Select | None,
        typer.Option(
            "--select",
            help="Selective models, stock export: which states stay. Default: elimination, then a refit; the others "
            "are baselines.",
        ),
    ] = None,
    refit: Annotated[
        int | None,
        typer.Option(
            "--refit",
            metavar="STEPS",
            min=0,
            help="Selective models, stock export: optimiser steps per layer on the calibration tokens, and half as "
            "many for all layers together; 0 for none. Default: 300, and 0 for the baselines.",
        ),
    ] = None,
    drop_blocks: Annotated[
        int | None,
        typer.Option(
            "--drop-blocks",
            metavar="K",
            help="Models of Mamba blocks alone: leave K whole blocks out, those without which the loss on the tokens "
            "rises least. A step of its own: compress the result once more for fewer states.",
        ),
    ] = None,
    tokens: TokensOption = None,
    text: TextOption = None,
    as_bytes: BytesOption = False,
    sampled: SelfOption = None,
    length: LengthOption = None,
    sequences: SequencesOption = None,
    seed: SeedOption = 0,
    layers: LayerOption = None,
    per_layer: Annotated[
        bool,
        typer.Option(
            "--per-layer",
            help="Give every layer its own state size. By default all get the size the largest needs, so that the "
            "model's code loads the result with one number changed.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Compute and report everything, write nothing.")] = False,
    family: FamilyOption = None,
    device: DeviceOption = Device.auto,
    jobs: JobsOption = 1,
    engine: EngineOption = EngineName.local,
    address: AddressOption = None,
    cache: CacheOption = None,
    no_cache: NoCacheOption = False,
    json: JsonOption = False,
    quiet: Annotated[bool, quiet_option("only the path of what was written")] = False,
) -> None:
    """Write a checkpoint of the same family with smaller states.

    Give exactly one of --rank, --energy, --error, --budget and --drop-blocks; the last leaves blocks out instead. MODEL
    is never changed; tensors outside the reduced layers are copied byte for byte. The report shows, per layer, the
    error bound known beforehand and the errors measured on the tensors as stored.

    Selective layers (Mamba) are reduced on calibration tokens: --tokens, --text or --self.
    """
    where, kept = checked_device(device, engine), chosen_cache(cache, no_cache)
    source = token_source(tokens, text, as_bytes, sampled, length, sequences, seed)
    from ssmtool.errors import UsageError
    from ssmtool.pipeline.compress import compress
    from ssmtool.pipeline.model import load

    found = load(model, family=family)
    targets = {"rank": rank, "energy": energy, "error": error, "budget": budget}
    if drop_blocks is not None:
        others = {**targets, "export": export, "select": select, "refit": refit, "layers": layers or None}
        others |= {"refine": refine, "calibrate": calibrate, "pad-to": pad_to}
        clash = next((name for name, value in others.items() if value is not None), "per_layer" if per_layer else None)
        if clash is not None:
            raise UsageError(
                f"--drop-blocks and --{clash.replace('_', '-')} are two steps",
                remedy="Drop blocks first, then compress what that wrote",
            )
        given = {"tokens": tokens, "text": text, "bytes": as_bytes, "self": sampled, "output": output, "family": family}
        rest = {"drop_blocks": drop_blocks, "dry_run": dry_run, "seed": seed, "device": device.value}
        drop(found, source, output, drop_blocks, dry_run, where, {**given, **rest} if json else None, quiet)
        return
    if not any(layer.lti for layer in found.select(layers)):
        not_for_selective(engine, jobs)
        linear_only = {"per-layer": per_layer, "calibrate": calibrate, "residues": residues, "refine": refine}
        linear_only |= {"horizon": horizon, "band": band, "model-code": model_code, "pad-to": pad_to}
        linear_only |= {"final": final is not None, "outputs": outputs, "control": control}
        linear_only |= {"method": method, "score": score != "last"}
        linear_only |= {"allocate": allocate != "uniform", "per-channel": per_channel, "labels": labels}
        for name, value in linear_only.items():
            if value:
                raise UsageError(
                    f"--{name} is for linear time-invariant layers",
                    remedy="Selective layers are refitted on tokens: --refit STEPS --tokens FILE",
                )
        how = {"export": export, "select": select, "refit": refit, "layers": layers, "dry_run": dry_run, "seed": seed}
        given = {"tokens": tokens, "text": text, "bytes": as_bytes, "self": sampled, "output": output, "family": family}
        selective_compress(
            found,
            source,
            output,
            targets=targets,
            device=where,
            document={**targets, **how, **given, "device": device.value} if json else None,
            quiet=quiet,
            cache=kept,
            **how,
        )
        return
    if source is not None or export or select or refit is not None:
        raise UsageError(
            "--export, --select, --refit and tokens are for selective layers, and none is selected",
            remedy="Linear time-invariant layers are refined by --refine STEPS --calibrate FILE" if refit else "",
        )
    skipped = [layer for layer in found.select(layers) if not layer.lti]
    how = {"method": method, "score": score, "horizon": horizon, "band": parsed_band(band), "residues": residues}
    how |= {"layers": layers, "per_layer": per_layer, "pad_to": pad_to, "dry_run": dry_run}
    with Bar(quiet) as bar, chosen_engine(engine, address, jobs) as workers:
        done = compress(
            found,
            output,
            **targets,  # type: ignore[arg-type]
            **how,  # type: ignore[arg-type]
            **_running(calibrate, model_code, refine, final, outputs, control, allocate, per_channel, labels, seed),
            device=where,
            progress=bar.layer,
            cache=kept,
            engine=workers,
            step=lambda name, done, total: bar.step(name, done, total, "steps"),
        )
    if json:
        from ssmtool.report.documents import compress_document
        from ssmtool.report.json_text import json_text

        fitting = {"calibrate": calibrate, "model_code": model_code, "refine": refine, "final": final}
        fitting |= {"outputs": outputs, "control": control, "seed": seed}
        fitting |= {"allocate": allocate, "per_channel": per_channel, "labels": labels}
        options = {**targets, **how, **fitting, "output": output, "family": family, "device": device.value}
        emit(json_text(compress_document(found, done, skipped, options)))
    elif quiet:
        emit(str(done.output or ""))
    else:
        from ssmtool.report.text.compress import compress_text

        emit(compress_text(found, done, skipped, family=family))


def _running(
    calibrate: Path | None,
    code: str | None,
    steps: int | None,
    final: int | None,
    outputs: str | None,
    control: bool,
    allocate: str,
    per_channel: bool,
    labels: Path | None,
    seed: int,
) -> dict[str, Any]:
    """What running the model takes. Raises UsageError, CheckpointError, CalibrationError."""
    from ssmtool.errors import UsageError

    sharing = None if allocate == "uniform" else allocate
    for name, value, needed, other in (
        ("model-code", code, calibrate, "--calibrate FILE"),
        ("refine", steps, calibrate, "--calibrate FILE"),
        ("final", final, steps, "--refine STEPS"),
        ("outputs", outputs, steps or sharing, "--refine STEPS or --allocate KIND"),
        ("per-channel", per_channel or None, sharing, "--allocate KIND other than uniform"),
        ("labels", labels, sharing, "--allocate KIND other than uniform"),
        ("control", control or None, steps, "--refine STEPS"),
    ):
        if value is not None and needed is None:
            raise UsageError(f"--{name} needs {other}")
    if outputs not in (None, "classes", "values"):
        raise UsageError(f"--outputs {outputs!r} is neither classes nor values")
    from ssmtool.pipeline.allocation import AllocateOptions

    if calibrate is None:
        shared = None if sharing is None else AllocateOptions(sharing, per_channel)
        if labels is not None:
            raise UsageError("--labels needs --calibrate FILE")
        return {"allocate": shared}
    from ssmtool.pipeline.inputs import read_inputs, read_labels
    from ssmtool.pipeline.live import load_build
    from ssmtool.pipeline.refine import RefineOptions

    array = read_inputs(calibrate).array
    kind = outputs or ("classes" if code is None or array.dtype.kind == "i" else "values")
    options = None if steps is None else RefineOptions(steps, final, outputs=kind, seed=seed)  # type: ignore[arg-type]
    shared = None
    if sharing is not None:
        classes = None if labels is None else read_labels(labels)
        shared = AllocateOptions(sharing, per_channel, classes, kind)  # type: ignore[arg-type]
    return {
        "allocate": shared,
        "inputs": array,
        "build": None if code is None else load_build(code),
        "refine": options,
        "control": control,
    }
