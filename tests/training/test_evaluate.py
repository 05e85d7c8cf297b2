"""Evaluation: a frozen result with the numbers the model has, and one-line refusals."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ssmtool.checkpoint import open_checkpoint
from ssmtool.errors import CheckpointError, FamilyError, MismatchError, SsmtoolError, UsageError
from ssmtool.reference.layouts._contract import Sizes
from ssmtool.reference.model import create
from ssmtool.training.evaluate import TASKS, evaluate
from ssmtool.training.tasks import digits
from ssmtool.training.tasks._contract import open_task

SIZES = Sizes(1, 8, 10, (4, 2))


def saved(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_file(tensors, path)
    return path


def weights(layout: str = "lru", sizes: Sizes = SIZES) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in create(layout, sizes, seed=0).state_dict().items()}


def test_result_counts_what_the_model_gets_right(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.safetensors", weights("s4d"))
    result = evaluate(path)
    model = create("s4d", SIZES, seed=0).eval()
    inputs, labels = digits.load("test")
    with torch.no_grad():
        expected = int((model(inputs).argmax(-1) == labels).sum())
    assert (result.task, result.correct, result.total) == ("digits", expected, 360)
    assert result.accuracy == expected / 360
    assert result.parameters == sum(tensor.numel() for tensor in weights("s4d").values())
    assert result.state_slots == 8 * (4 + 2)
    assert result.seconds > 0
    with pytest.raises(FrozenInstanceError):
        result.correct = 0  # type: ignore[misc]


def test_every_source_gives_the_same_result(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.safetensors", weights())
    torch.save(weights(), tmp_path / "model.pt")
    sources = (str(path), tmp_path / "model.pt", open_checkpoint(path))
    assert len({evaluate(source).correct for source in sources}) == 1


def test_tasks_are_files() -> None:
    assert TASKS == ("digits", "imdb", "listops", "pathfinder", "scifar", "smnist")


def test_tasks_of_tokens_take_options_and_mind_the_lengths(tmp_path: Path) -> None:
    task = "listops:min_length=3,max_length=40,max_depth=3,max_args=4,test=50"
    sizes = Sizes(15, 8, 10, (4,))
    path = saved(tmp_path / "model.safetensors", weights("s5", sizes))
    result = evaluate(path, task)
    model = create("s5", sizes, seed=0).eval()
    inputs, labels = open_task(task).load("test")
    rows = [row[row >= 0].long() for row in inputs]
    with torch.no_grad():  # one at a time: nothing is padded
        found = torch.stack([model(torch.eye(15)[row][None])[0].argmax() for row in rows])
    assert (result.correct, result.total) == (int((found == labels).sum()), 50)
    assert result.task == "listops:min_length=3,max_length=40,max_depth=3,max_args=4,test=50"


def refuse(error: type[SsmtoolError], words: str, path: Path, **options: str) -> None:
    with pytest.raises(error) as caught:
        evaluate(path, **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_refusals_take_one_line(tmp_path: Path) -> None:
    path = saved(tmp_path / "good.safetensors", weights())
    refuse(UsageError, "no task 'letters'. Known tasks: digits, imdb, listops", path, task="letters")
    refuse(UsageError, "no device 'warp'", path, device="warp")
    foreign = saved(tmp_path / "foreign.safetensors", {"weight": torch.zeros(2, 2)})
    refuse(FamilyError, "not of a reference model", foreign)
    other = saved(tmp_path / "other.safetensors", weights(sizes=Sizes(1, 8, 7, (4,))))
    refuse(MismatchError, "to 7 classes", other)
    huge = weights() | {"encoder.layers_0.seq.gamma_log": torch.full((4,), 500.0)}
    refuse(CheckpointError, "not finite", saved(tmp_path / "huge.safetensors", huge))
    refuse(CheckpointError, "absent", tmp_path / "absent.safetensors")
