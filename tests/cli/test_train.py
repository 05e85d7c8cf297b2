"""ssmtool train."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

SMALL = ("--width", "6", "--depth", "1", "--slots", "3", "--epochs", "1", "--device", "cpu")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_run_and_the_same_command_again(run, tmp_path):
    folder = tmp_path / "run"
    code, out, err = run("train", "-o", folder, *SMALL, "--model", "hankelreg")
    assert (code, err) == (0, "")
    assert "Task digits, model hankelreg" in out
    assert "1 epoch, 20 steps" in out
    assert f"Wrote {folder}/model.safetensors" in out
    before = (folder / "model.safetensors").read_bytes()
    code, out, _ = run("train", "-o", folder, *SMALL, "--model", "hankelreg")
    assert code == 0
    assert "finished already" in out
    assert (folder / "model.safetensors").read_bytes() == before
    code, out, err = run("train", "-o", folder, *SMALL, "--model", "hankelreg", "--seed", "1")
    assert (code, out) == (2, "")
    assert "this run was started with seed 0, not 1" in err
    code, out, _ = run("evaluate", folder / "model.safetensors", "--json")
    record = json.loads((folder / "run.json").read_text())
    assert json.loads(out)["results"][0]["accuracy"] == record["test"]["accuracy"]
    assert run("compress", folder / "model.safetensors", "--rank", "2", "-o", tmp_path / "small.safetensors").code == 0


def test_regulariser_truncation_and_task_with_options(run, tmp_path):
    lists = "listops:min_length=4,max_length=30,max_depth=3,max_args=4,train=200,validation=20,test=30"
    options = ("--task", lists, "--reg", "hankel:1e-3", "--truncate", "order:2@0.4", "--batch", "50", "--json")
    code, out, err = run("train", "-o", tmp_path / "run", *SMALL, *options)
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["command"] == "train"
    assert (document["options"]["task"], document["options"]["reg"]) == (lists, "hankel:0.001")
    (epoch,) = document["epochs"]
    assert epoch["step"] == 4
    assert epoch["penalty"] > 0
    assert epoch["state_slots"] < 6 * 3
    assert document["test"]["total"] == 30
    assert document["input"]["path"] == str(tmp_path / "run" / "model.safetensors")
    code, out, _ = run("evaluate", tmp_path / "run" / "model.safetensors", "--task", lists, "--quiet")
    assert (code, out) == (0, f"{document['test']['accuracy']:.4f}\n")


def test_quiet_and_resume(run, tmp_path):
    folder = tmp_path / "run"
    assert run("train", "-o", folder, *SMALL, "--quiet") == (0, f"{folder}/model.safetensors\n", "")
    code, out, _ = run("train", "-o", folder, "--resume", "--quiet")
    assert (code, out) == (0, f"{folder}/model.safetensors\n")
    code, out, err = run("train", "-o", folder, "--resume", "--reg", "hankel:1e-4")
    assert (code, out) == (2, "")
    assert "this run was started with reg none, not hankel:0.0001" in err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--task", "letters"], "no task 'letters'. Known tasks: digits, imdb, listops, pathfinder, scifar, smnist"),
        (["--model", "transformer"], "no model 'transformer'. Known models: hankelreg, lru, s4d, s5"),
        (["--reg", "l2:3"], "no regulariser 'l2'. Known: none, hankel:WEIGHT"),
        (["--truncate", "often"], "the truncation 'often' is neither"),
        (["--task", "scifar", "--data", "absent"], "absent: is not a folder. Task scifar expects there: cifar-10-"),
        (["--resume"], "holds no run to resume"),
        (["--epochs", "0"], "--epochs"),
    ],
)
def test_refusals(run, tmp_path, args, words):
    code, out, err = run("train", "-o", tmp_path / "run", *args)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_folder_with_something_else(run, tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    code, _, err = run("train", "-o", tmp_path, *SMALL)
    assert code == 2
    assert "holds something else (thesis.tex)" in err


def test_help_imports_nothing_heavy(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "ssmtool.training.run", None)
    code, out, _ = run("train", "--help")
    assert code == 0
    for path in Path(__file__).parents[2].joinpath("ssmtool/reference/layouts").glob("[a-z]*.py"):
        assert path.stem in out
