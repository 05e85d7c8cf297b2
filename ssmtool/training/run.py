"""A training run in a folder: started, continued after a kill, or found finished."""

from __future__ import annotations

import hashlib
import platform
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssmtool.errors import UsageError
from ssmtool.reference.model import layouts
from ssmtool.training.evaluate import checked_device, evaluate
from ssmtool.training.loop import Epoch, Training
from ssmtool.training.penalties import parse_penalty
from ssmtool.training.recipe import Recipe, recipe_for
from ssmtool.training.run_folder import MODEL, STATE, RunFolder, compare_settings
from ssmtool.training.schedule import parse_schedule
from ssmtool.training.tasks._contract import Task, open_task
from ssmtool.version import __version__

PACKAGES = ("torch", "numpy", "scikit-learn", "safetensors")
MOST_THREADS = 4096
SAVE_SECONDS = 60.0  # at most this much work is lost within an epoch
Progress = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class Run:
    """What a training run came to.

    Attributes:
        folder: with the files of the run.
        settings: everything that decides the result.
        epochs: one per epoch.
        test: accuracy, correct and total on the test part, of the checkpoint as written.
        continued_from: steps that were done already when this call started; equal to all steps if there was nothing
            left to do.
        sha256: of the checkpoint.
    """

    folder: Path
    settings: Mapping[str, Any]
    epochs: tuple[Epoch, ...]
    test: Mapping[str, Any]
    continued_from: int
    sha256: str

    @property
    def checkpoint(self) -> Path:
        return self.folder / MODEL


def run_training(
    folder: str | Path,
    settings: Mapping[str, Any],
    *,
    resume: bool = False,
    data: str | Path | None = None,
    progress: Progress = lambda label, done, total, unit: None,
) -> Run:
    """Train, or continue a run, in `folder`.

    Args:
        folder: new, empty, or of a run with the same settings.
        settings: ``task``, ``model``, ``reg``, ``truncate``, ``seed``, ``device``, ``threads`` and fields of Recipe.
            What is missing takes its default, or with `resume` what the run was started with.
        resume: whether there has to be a run to continue.
        data: folder with the files of a task that reads any.
        progress: called after each step with a label, steps done, steps in all and "steps".

    Raises:
        UsageError: settings out of range, or other than those of the run in `folder`; other data than it was started
            with; training diverged.
        OutputError: `folder` holds something else or cannot be written.
        CheckpointError: the state of the run cannot be read.
    """
    place = RunFolder(folder)
    if resume and not place.holds_run:
        raise UsageError("holds no run to resume", where=str(folder), remedy="Leave out --resume to start one")
    if not resume:  # no folder is made for settings that cannot be
        _complete(settings, open_task(str(settings.get("task", "digits")), data))
    with ExitStack() as stack:
        stack.enter_context(place.held())
        recorded = place.record() if place.holds_run else None
        if recorded is not None and resume:
            settings = {**recorded["settings"], **settings}
        task = open_task(str(settings.get("task", "digits")), data)
        full, recipe = _complete(settings, task)
        if recorded is not None:
            compare_settings(recorded["settings"], full, str(folder))
        stack.enter_context(_threads(full["threads"]))
        training = Training(
            recipe,
            full["seed"],
            task=task,
            penalty=parse_penalty(full["reg"]),
            schedule=parse_schedule(full["truncate"]),
            device=full["device"],
        )
        return _go_on(training, place, full, recorded, progress)


def _go_on(
    training: Training, place: RunFolder, settings: dict[str, Any], recorded: dict[str, Any] | None, progress: Progress
) -> Run:
    record = recorded or {"settings": settings, "versions": _versions(), "hashes": {"data": _data_hash(training)}}
    if recorded is None:
        place.write_record(record)
    else:
        _check_same_ground(record, training, place)
    if state := place.state():
        training.restore(state, where=str(place.path / STATE))
    begun, metadata = training.step_count, _metadata(training)
    saved = time.monotonic()
    while not training.finished:
        epoch = training.step()
        if epoch or time.monotonic() - saved > SAVE_SECONDS:
            place.write_state(training.state())
            saved = time.monotonic()
        if epoch:
            _publish(training, place, metadata)
        progress(_label(training), training.step_count, training.steps, "steps")
    _publish(training, place, metadata)
    digest = hashlib.sha256((place.path / MODEL).read_bytes()).hexdigest()
    if "test" not in record or record["hashes"].get(MODEL) != digest:
        found = evaluate(place.path / MODEL, training.task.spec, settings["device"], training.task.data)
        record["hashes"][MODEL] = digest
        record["test"] = {"accuracy": found.accuracy, "correct": found.correct, "total": found.total}
        place.write_record(record)
    return Run(place.path, settings, tuple(training.history), record["test"], begun, digest)


def _publish(training: Training, place: RunFolder, metadata: Mapping[str, str]) -> None:
    place.write_metrics([asdict(epoch) for epoch in training.history])
    place.write_model(training.average, metadata)


def _complete(given: Mapping[str, Any], task: Task) -> tuple[dict[str, Any], Recipe]:
    """All settings, checked, with the recipe they are."""
    settings = {"reg": "none", "truncate": "none", "seed": 0, "device": "auto", "threads": 1, **given}
    _check_kinds(settings)
    model = settings.pop("model", "s4d")
    if model not in layouts():
        raise UsageError(f"no model {model!r}", remedy=f"Known models: {', '.join(layouts())}")
    outside = {"task", "reg", "truncate", "seed", "device", "threads"}
    if unknown := sorted(settings.keys() - outside - {field.name for field in fields(Recipe)}):
        raise UsageError(f"there is no setting {unknown[0]!r}")
    recipe = recipe_for(model, task, **{name: value for name, value in settings.items() if name not in outside})
    settings["reg"] = str(parse_penalty(settings["reg"]) or "none")
    settings["truncate"] = ",".join(map(str, parse_schedule(settings["truncate"]))) or "none"
    for name in ("width", "depth", "slots", "epochs", "batch", "rate", "state_rate"):
        if not getattr(recipe, name) > 0:
            raise UsageError(f"{name} is {getattr(recipe, name)}", remedy="Give a positive number")
    if not 0 <= recipe.dropout < 1:
        raise UsageError(f"dropout is {recipe.dropout}", remedy="Give a probability from 0 to below 1")
    device = settings["device"]
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    checked_device(device)
    chosen = {name: value for name, value in asdict(recipe).items() if name not in ("layout", "task")}
    full = {"task": task.spec, "model": model, **{name: settings[name] for name in ("reg", "truncate", "seed")}}
    return {**full, "device": device, "threads": settings["threads"], **chosen}, recipe


def _check_kinds(settings: Mapping[str, Any]) -> None:
    """Settings may come from a file somebody wrote by hand. Raises UsageError for one that is not of its kind."""
    kinds = {field.name: type(field.default) for field in fields(Recipe) if field.name not in ("layout", "task")}
    kinds |= {"task": str, "model": str, "reg": str, "truncate": str, "device": str, "seed": int, "threads": int}
    for name, value in settings.items():
        kind = kinds.get(name)
        fits = kind is None or type(value) is kind or (kind is float and type(value) is int)
        fits = fits and (not isinstance(value, int | float) or abs(value) < 2**63)
        if not fits or (name == "threads" and not 1 <= value <= MOST_THREADS):
            raise UsageError(f"the setting {name} is {value!r:.80}", remedy="Give what ssmtool train --help says")


def _check_same_ground(record: Mapping[str, Any], training: Training, place: RunFolder) -> None:
    """Data have to be those the run was started with; other versions of libraries are worth a warning."""
    if record["hashes"]["data"] != _data_hash(training):
        raise UsageError(
            "this run was started with other data", where=str(place.path), remedy="Give it the same --data"
        )
    changed = [
        f"{name} {old} → {new}" for name, new in _versions().items() if (old := record["versions"].get(name)) != new
    ]
    if changed:
        warnings.warn(f"{place.path}: continued with other versions ({', '.join(changed)})", stacklevel=2)


def _data_hash(training: Training) -> str:
    """SHA-256 of the training part."""
    digest = hashlib.sha256()
    for tensor in (training.inputs, training.labels):
        digest.update(np.ascontiguousarray(tensor.numpy()).view(np.uint8).data)
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    found = {"ssmtool": __version__, "python": platform.python_version(), "machine": platform.machine()}
    return {**found, **{name: version(name) for name in PACKAGES}}


def _metadata(training: Training) -> dict[str, str]:
    recipe = training.recipe
    return {"format": "pt", "model": f"ssmtool-reference-{recipe.layout}", "task": recipe.task}


def _label(training: Training) -> str:
    epochs = training.recipe.epochs
    if not training.history:
        return f"epoch 1/{epochs}"
    last = training.history[-1]
    return f"epoch {min(last.number + 1, epochs)}/{epochs}  loss {last.loss:.3f}  validation {last.validation:.3f}"


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Sums are added in an order that depends on the number of threads: it is a setting like any other."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
