"""Runs in a folder: continued bit for bit after a kill, refused with other settings, never mixed with other files."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import ssmtool
from ssmtool.errors import CheckpointError, OutputError, SsmtoolError, UsageError
from ssmtool.reference.model import layouts
from ssmtool.training import run as run_module
from ssmtool.training.evaluate import evaluate
from ssmtool.training.loop import Training
from ssmtool.training.recipe import Recipe
from ssmtool.training.run import run_training
from ssmtool.training.run_folder import METRICS, MODEL, RECORD, STATE, SUFFIX, RunFolder

SETTINGS: dict[str, Any] = {"model": "s4d", "epochs": 2, "width": 6, "depth": 1, "slots": 3, "device": "cpu"}
STEPS = 40  # 1257 images in batches of 64, twice


class Stopped(Exception):
    """What a kill looks like from inside."""


def stop_after(steps: int) -> Any:
    def progress(label: str, done: int, total: int, unit: str) -> None:
        if done == steps:
            raise Stopped

    return progress


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    torch.set_num_threads(1)
    run_training(folder, SETTINGS)
    return folder


def test_a_run_leaves_its_checkpoint_metrics_record_and_state(whole: Path) -> None:
    assert files(whole) == {MODEL, METRICS, RECORD, STATE}
    record = json.loads((whole / RECORD).read_text())
    epochs = [json.loads(line) for line in (whole / METRICS).read_text().splitlines()]
    assert [epoch["number"] for epoch in epochs] == [1, 2]
    assert epochs[-1]["step"] == STEPS
    assert {"step", "loss", "penalty", "validation", "rate", "seconds"} <= epochs[0].keys()
    assert 0 < epochs[0]["seconds"] < epochs[1]["seconds"]
    assert SETTINGS.items() <= record["settings"].items()
    assert record["hashes"][MODEL] == hashlib.sha256((whole / MODEL).read_bytes()).hexdigest()
    result = evaluate(whole / MODEL)
    assert (record["test"]["correct"], record["test"]["total"]) == (result.correct, result.total)


@pytest.mark.parametrize("layout", layouts())
def test_every_command_reads_the_checkpoint(tmp_path: Path, layout: str) -> None:
    done = run_training(tmp_path, {**SETTINGS, "model": layout, "epochs": 1, "depth": 2})
    model = ssmtool.load(done.checkpoint)
    assert len(model.layers) == 2
    assert {layer.family for layer in model.layers} == {layout}
    assert {layer.slots for layer in model.layers} == {3}


def test_a_run_with_a_penalty_and_truncations_is_continued_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Across the truncation: shapes, the optimiser's moments, the drawn channels and the average are all restored."""
    settings = {
        **SETTINGS,
        "slots": 8,
        "epochs": 3,
        "reg": "hankel:1e-3,refresh=3",
        "truncate": "order:10@0.3,energy:0.9@0.6",
    }
    whole = run_training(tmp_path / "whole", settings)
    slots = [epoch.state_slots for epoch in whole.epochs]
    assert 6 * 8 > slots[0] >= slots[1] == slots[2]
    assert all(epoch.penalty > 0 for epoch in whole.epochs)
    monkeypatch.setattr(run_module, "SAVE_SECONDS", 0.0)
    for steps in (9, 20, 31, 47):
        with pytest.raises(Stopped):
            run_training(tmp_path / "run", settings, progress=stop_after(steps))
    done = run_training(tmp_path / "run", {}, resume=True)
    assert done.continued_from == 47
    assert done.checkpoint.read_bytes() == whole.checkpoint.read_bytes()


@pytest.mark.parametrize("steps", [1, 7, 20, 33])
def test_a_continued_run_gives_the_same_bytes(
    whole: Path, tmp_path: Path, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "SAVE_SECONDS", 0.0)  # a state after every step
    with pytest.raises(Stopped):
        run_training(tmp_path / "run", SETTINGS, progress=stop_after(steps))
    torch.rand(3)  # the global generator of the second process stands anywhere
    done = run_training(tmp_path / "run", SETTINGS)
    assert done.continued_from == steps
    assert (tmp_path / "run" / MODEL).read_bytes() == (whole / MODEL).read_bytes()
    kept = ("number", "step", "loss", "penalty", "validation", "rate")
    mine, theirs = ((folder / METRICS).read_text().splitlines() for folder in (tmp_path / "run", whole))
    for line, other in zip(mine, theirs, strict=True):
        assert [json.loads(line)[name] for name in kept] == [json.loads(other)[name] for name in kept]


def test_a_killed_process_is_continued(whole: Path, tmp_path: Path) -> None:
    """SIGKILL, wherever it strikes: the second run ends with the bytes of one that was never killed."""
    options = [f"--{name}={value}" for name, value in SETTINGS.items()]
    command = [sys.executable, "-m", "ssmtool", "train", "-o", str(tmp_path / "run"), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while process.poll() is None and not (tmp_path / "run" / STATE).exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = run_training(tmp_path / "run", {}, resume=True)
    assert done.epochs[-1].step == STEPS
    assert done.checkpoint.read_bytes() == (whole / MODEL).read_bytes()


def test_a_file_that_was_being_written_does_no_harm(whole: Path, tmp_path: Path) -> None:
    (tmp_path / (RECORD + SUFFIX)).write_text('{"sett')
    (tmp_path / (STATE + SUFFIX)).write_bytes(b"PK")
    done = run_training(tmp_path, SETTINGS)
    assert done.checkpoint.read_bytes() == (whole / MODEL).read_bytes()
    assert files(tmp_path) == {MODEL, METRICS, RECORD, STATE}


def test_a_finished_run_is_left_as_it_is(whole: Path) -> None:
    before = {path.name: path.read_bytes() for path in whole.iterdir()}
    done = run_training(whole, {}, resume=True)
    assert done.continued_from == STEPS
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == before


def refuse(error: type[SsmtoolError], words: str, folder: Path, **settings: Any) -> None:
    with pytest.raises(error) as caught:
        run_training(folder, {**SETTINGS, **settings})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("seed", 1), ("epochs", 3), ("model", "lru"), ("rate", 1e-2), ("reg", "modal-l1:0.1"), ("threads", 2)],
)
def test_other_settings_are_refused_by_name(whole: Path, setting: str, value: Any) -> None:
    before = {path.name: path.read_bytes() for path in whole.iterdir()}
    refuse(UsageError, f"this run was started with {setting} ", whole, **{setting: value})
    with pytest.raises(UsageError, match=f"started with {setting} "):
        run_training(whole, {setting: value}, resume=True)
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == before


def test_a_setting_left_out_is_its_default_and_not_the_run_s(whole: Path) -> None:
    settings = {name: value for name, value in SETTINGS.items() if name != "epochs"}
    with pytest.raises(UsageError, match="started with epochs 2, not 150"):
        run_training(whole, settings)


def test_folders_that_hold_something_else_are_refused(tmp_path: Path, whole: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    refuse(OutputError, "holds something else (notes.txt)", tmp_path)
    assert files(tmp_path) == {"notes.txt"}
    refuse(OutputError, "is not a folder", tmp_path / "notes.txt")
    with pytest.raises(UsageError, match="no run to resume"):
        run_training(tmp_path / "absent", {}, resume=True)
    assert not (tmp_path / "absent").exists()


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    run_training(tmp_path, {**SETTINGS, "epochs": 1})
    (tmp_path / STATE).write_bytes((tmp_path / STATE).read_bytes()[:1000])
    refuse(CheckpointError, "state.pt: cannot be read", tmp_path, epochs=1)
    torch.save({"step": 3}, tmp_path / STATE)
    refuse(CheckpointError, "state.pt: is not the state of this run", tmp_path, epochs=1)
    (tmp_path / RECORD).write_text("{")
    refuse(CheckpointError, "is not valid JSON", tmp_path, epochs=1)


def test_a_state_executes_nothing(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "executed"),)

    run_training(tmp_path / "run", {**SETTINGS, "epochs": 1})
    torch.save({"step": Harmful()}, tmp_path / "run" / STATE)
    refuse(CheckpointError, "cannot be read", tmp_path / "run", epochs=1)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": "transformer"}, "no model 'transformer'. Known models: hankelreg, lru, s4d, s5"),
        ({"task": "letters"}, "no task 'letters'. Known tasks: "),
        ({"task": "digits:size=3"}, "task digits has no option 'size'. It has none"),
        ({"reg": "l2:1"}, "no regulariser 'l2'"),
        ({"reg": "hankel"}, "the weight of regulariser hankel is ''"),
        ({"reg": "hankel:-1"}, "the weight of regulariser hankel is '-1'"),
        ({"reg": "hankel:1,each=2"}, "regulariser hankel has no option 'each'. It has: channels, refresh"),
        ({"reg": "modal-l1:1,refresh=2"}, "has no option 'refresh'"),
        ({"truncate": "rank:3@0.5"}, "the truncation 'rank:3@0.5' is neither energy:SHARE@TIME"),
        ({"truncate": "order:2.5@0.5"}, "the truncation"),
        ({"truncate": "energy:1.5@0.5"}, "the truncation"),
        ({"rate": 0.0}, "rate is 0.0"),
        ({"speed": 3}, "there is no setting 'speed'"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"device": "warp"}, "no device 'warp'"),
    ],
)
def test_settings_out_of_range_are_refused_before_anything_is_written(
    tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    refuse(UsageError, words, tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_other_data_are_refused_and_other_versions_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_training(tmp_path, {**SETTINGS, "epochs": 1})
    monkeypatch.setattr(run_module, "_versions", lambda: {"torch": "9.9"})
    with pytest.warns(UserWarning, match=r"continued with other versions \(torch .* → 9.9\)"):
        run_training(tmp_path, {}, resume=True)
    record = json.loads((tmp_path / RECORD).read_text())
    record["hashes"]["data"] = "0" * 64
    (tmp_path / RECORD).write_text(json.dumps(record))
    with pytest.raises(UsageError, match="this run was started with other data"):
        run_training(tmp_path, {}, resume=True)


def test_a_run_that_diverges_says_so() -> None:
    training = Training(Recipe("s4d", width=4, depth=1, slots=2, rate=float("inf")), seed=0)

    def go_on() -> None:
        while not training.finished:
            training.step()

    with pytest.raises(UsageError, match="training diverged: the loss is not finite after step 2"):
        go_on()


def test_the_folder_knows_its_run(whole: Path, tmp_path: Path) -> None:
    assert RunFolder(whole).holds_run
    assert not RunFolder(tmp_path).holds_run
    assert RunFolder(tmp_path).state() is None


def _deep(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with one value changed, or left out for "gone"."""
    changed = json.loads(json.dumps(document))
    *inside, last = path.split(".")
    here = changed
    for name in inside:
        here = here[name]
    here.pop(last) if value == "gone" else here.update({last: value})
    return changed


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("hashes", "gone", "is not the record of a training run"),
        ("hashes.data", "gone", "is not the record of a training run"),
        ("versions", [1], "is not the record of a training run"),
        ("settings", "x", "is not the record of a training run"),
        ("settings.width", "wide", "the setting width is 'wide'"),
        ("settings.width", True, "the setting width is True"),
        ("settings.seed", 10**40, "the setting seed is 1000"),
        ("settings.threads", 0, "the setting threads is 0"),
        ("settings.device", 1.5, "the setting device is 1.5"),
        ("settings.reg", ["a"], "the setting reg is ['a']"),
        ("settings.rate", None, "the setting rate is None"),
        ("settings.task", {}, "no task '{}'"),
    ],
)
def test_a_record_somebody_changed_is_refused(whole: Path, tmp_path: Path, path: str, value: Any, words: str) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    (folder / RECORD).write_text(json.dumps(_deep(json.loads((folder / RECORD).read_text()), path, value)))
    with pytest.raises(SsmtoolError, match=re.escape(words)) as caught:
        run_training(folder, {}, resume=True)
    assert "\n" not in caught.value.line()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("slots", [10**9]), ("slots", []), ("slots", None), ("model", {}), ("average", []),
        ("optimiser", {"state": {0: {}}}),
        ("optimiser", {}), ("step", -1), ("step", 10**9), ("step", 1.5), ("order", torch.arange(3)), ("order", "x"),
        ("noise", []), ("noise", [torch.zeros(3)]), ("generator", torch.zeros(3, dtype=torch.uint8)), ("history", [{}]),
        ("history", [{"number": 1}]), ("loss", []), ("cost", "x"), ("seconds", {}),
    ],
)  # fmt: skip
def test_a_state_of_something_else_is_refused(whole: Path, tmp_path: Path, name: str, value: Any) -> None:
    """Before any step is made from it: what would fail in a later one is no state either."""
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    state = torch.load(folder / STATE, weights_only=True)
    torch.save({**state, "step": 3, name: value}, folder / STATE)
    with pytest.raises(CheckpointError, match=r"state\.pt: is not the state of this run") as caught:
        run_training(folder, {}, resume=True)
    assert "\n" not in caught.value.line()


def test_a_second_run_in_the_folder_is_refused_while_the_first_goes_on(tmp_path: Path) -> None:
    folder, seen = tmp_path / "run", []

    def meanwhile(*_: Any) -> None:
        if not seen:
            with pytest.raises(OutputError, match="is being written to by another training run") as caught:
                run_training(folder, SETTINGS)
            seen.append(caught.value)

    run_training(folder, SETTINGS, progress=meanwhile)
    assert seen
    assert files(folder) == {MODEL, METRICS, RECORD, STATE}


def test_settings_that_cannot_be_make_no_folder(tmp_path: Path) -> None:
    refuse(UsageError, "no task 'nothing'", tmp_path / "run", task="nothing")
    refuse(UsageError, "width is 0", tmp_path / "run", width=0)
    assert not (tmp_path / "run").exists()
