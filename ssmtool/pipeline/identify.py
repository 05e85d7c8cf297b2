"""Recorded inputs and outputs in, a checkpoint with the system that explains them out, with how well it does."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ssmtool.checkpoint import round_to
from ssmtool.checkpoint.fresh import NewFile
from ssmtool.errors import DataError, UsageError
from ssmtool.lti.identify import Identified, identify, simulate
from ssmtool.lti.systems import DiagonalSystem
from ssmtool.pipeline.neutral_tensors import neutral_tensors
from ssmtool.pipeline.numbers import NumberFile, read_numbers
from ssmtool.version import __version__

RECORD = "ssmtool_identify"
"""Key of the record in the checkpoint's metadata."""

NAME = "ssm"
"""Name of the layer that is written."""

HOLDOUT = 0.2
DTYPES = {"float32": "F32", "float64": "F64"}


@dataclass(frozen=True)
class Identification:
    """Result of `identify_files`. Fits are those of the tensors as stored.

    Attributes:
        inputs, outputs: the files.  output: the new checkpoint (None for a dry run).
        sequences, length, held_out: K; steps of each; steps at the end of each that were not looked at.
        found: the system before rounding, and how it was found.
        given: whether the order was given.
        system: as stored.
        dtype: of its tensors.
        fit: (p,) 100 (1 - ||y - simulated|| / ||y - mean||) on what was looked at; NaN for an output that is constant.
        held_out_fit: (p,) the same on the rest, None if nothing was held out.
        bytes: of all tensors.
    """

    inputs: NumberFile
    outputs: NumberFile
    output: Path | None
    sequences: int
    length: int
    held_out: int
    found: Identified
    given: bool
    system: DiagonalSystem
    dtype: str
    fit: np.ndarray
    held_out_fit: np.ndarray | None
    bytes: int


def identify_files(
    inputs: str | Path,
    outputs: str | Path,
    output: str | Path | None = None,
    *,
    order: int | None = None,
    horizon: int | None = None,
    holdout: float = HOLDOUT,
    dtype: str | None = None,
    dry_run: bool = False,
    step: Callable[[str, int, int, str], None] | None = None,
) -> Identification:
    """Identify a system from recorded signals and write it in the neutral format.

    Args:
        inputs, outputs: files of numbers, (L,), (L, channels) or (K, L, channels), time before channels.
        output: a .safetensors file that must not exist; None derives "<outputs>-order<n>.safetensors" beside `outputs`.
        order: states; None takes the order after which the singular values fall most.
        horizon: steps of past and of future; see `lti.identify.identify`.
        holdout: share of every sequence, at its end, that is only used to measure the fit, in [0, 1).
        dtype: "float32" or "float64"; by default float32 if both files are in single precision or less, else float64.
        dry_run: everything but the writing.
        step: called with (what, done, total, "steps").

    Raises:
        UsageError: options out of range.
        DataError: signals that do not fit each other or do not determine a system.
        UnstableError: no stable system explains them.
        CheckpointError, OutputError: reading or writing fails.
    """
    for value, name in ((order, "--order"), (horizon, "--horizon")):
        if value is not None and value < 1:
            raise UsageError(f"{name} {value} is not a positive number")
    if not 0 <= holdout < 1:
        raise UsageError(f"--holdout {holdout:g} is not a share of at least 0 and below 1")
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"there is no dtype {dtype!r} for the output", remedy=f"Use {' or '.join(DTYPES)}")
    progress = step or (lambda *_: None)
    progress("read", 0, 3, "steps")
    files = read_numbers(inputs), read_numbers(outputs)
    u, y = (_signals(file) for file in files)
    _check(files, u, y)
    place = None
    if not dry_run and (output is not None or order is not None):
        place = _place(output, files[1], order)
    held = round(holdout * u.shape[1])
    known = u.shape[1] - held
    progress("identify", 1, 3, "steps")
    found = identify([(a[:known], b[:known]) for a, b in zip(u, y, strict=True)], order, horizon)
    single = all(file.single for file in files)
    stored_as = DTYPES[dtype] if dtype is not None else "F32" if single else "F64"
    system = _rounded(found.system, stored_as)
    progress("simulate", 2, 3, "steps")
    simulated = np.stack([simulate(system, a, b, known) for a, b in zip(u, y, strict=True)])
    tensors = neutral_tensors(NAME, system, stored_as, batch=False)
    done = Identification(
        inputs=files[0],
        outputs=files[1],
        output=None,
        sequences=len(u),
        length=u.shape[1],
        held_out=held,
        found=found,
        given=order is not None,
        system=system,
        dtype=stored_as,
        fit=_fit(y[:, :known], simulated[:, :known]),
        held_out_fit=_fit(y[:, known:], simulated[:, known:]) if held else None,
        bytes=sum(x.size for x, _ in tensors.values()) * (4 if stored_as == "F32" else 8),
    )
    if dry_run:
        return done
    place = place or _place(output, files[1], found.order)
    path = place.write(tensors, {"format": "pt", RECORD: json.dumps(_record(done))})
    return replace(done, output=path)


def _signals(file: NumberFile) -> np.ndarray:
    """(K, L, channels). Raises DataError."""
    if len(file.arrays) != 1:
        raise DataError(f"holds {len(file.arrays)} arrays", where=str(file.path), remedy="Give one array a file")
    (array,) = file.arrays.values()
    if array.ndim not in (1, 2, 3):
        raise DataError(
            f"has shape {array.shape}",
            where=str(file.path),
            remedy="Expected (L,), (L, channels) or (sequences, L, channels)",
        )
    array = array[:, None] if array.ndim == 1 else array
    array = array[None] if array.ndim == 2 else array
    if array.shape[2] > array.shape[1]:
        raise DataError(
            f"has {array.shape[1]} steps of {array.shape[2]} channels",
            where=str(file.path),
            remedy="Time comes before channels: transpose it",
        )
    return array


def _check(files: tuple[NumberFile, NumberFile], u: np.ndarray, y: np.ndarray) -> None:
    if u.shape[:2] != y.shape[:2]:
        (k, length), (other_k, other) = u.shape[:2], y.shape[:2]
        raise DataError(
            f"{k} sequences of {length} steps go in, and {other_k} of {other} come out",
            where=f"{files[0].path} and {files[1].path}",
            remedy="Give inputs and outputs of the same record, step by step",
        )


def _place(output: str | Path | None, outputs: NumberFile, order: int | None) -> NewFile:
    if output is not None:
        return NewFile(output)
    path = outputs.path
    name = path.stem if path.is_file() else path.name
    return NewFile(path.with_name(f"{name}-order{order}.safetensors"))


def _rounded(system: DiagonalSystem, dtype: str) -> DiagonalSystem:
    parts = []
    for z in (system.a, system.B, system.C):
        parts.append(round_to(np.real(z), dtype) + 1j * round_to(np.imag(z), dtype))
    return DiagonalSystem(parts[0], parts[1], parts[2], round_to(system.D, dtype))


def _fit(y: np.ndarray, simulated: np.ndarray) -> np.ndarray:
    """(p,) percent, over all sequences together; (K, L, p) each."""
    spread = np.linalg.norm((y - y.mean(axis=1, keepdims=True)).reshape(-1, y.shape[2]), axis=0)
    error = np.linalg.norm((y - simulated).reshape(-1, y.shape[2]), axis=0)
    return 100 * (1 - np.divide(error, spread, out=np.full_like(error, np.nan), where=spread > 0))


def _record(done: Identification) -> dict[str, Any]:
    def percent(fit: np.ndarray | None) -> list[float | None] | None:
        return None if fit is None else [None if np.isnan(x) else float(f"{x:.6g}") for x in fit]

    return {
        "version": __version__,
        "inputs_sha256": done.inputs.sha256,
        "outputs_sha256": done.outputs.sha256,
        "order": done.found.order,
        "weighting": done.found.weighting,
        "horizon": done.found.horizon,
        "fit": percent(done.fit),
        "held_out_fit": percent(done.held_out_fit),
    }
