"""hsv and compress on selective models."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from tests.pipeline.language_models import byte_model


@pytest.fixture
def mamba2(tmp_path: Path) -> Path:
    return byte_model(tmp_path / "mamba2", "mamba2")


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (8, 24)))
    return path


def test_hsv_without_tokens_says_what_weights_say_and_what_is_missing(run, mamba2):
    code, out, err = run("hsv", mamba2)
    assert (code, err) == (0, "")
    assert "from weights alone" in out
    assert "--tokens FILE" in out


def test_hsv_on_tokens_has_a_row_per_layer_and_names_the_data(run, mamba2, tokens):
    code, out, _ = run("hsv", mamba2, "--tokens", tokens)
    assert code == 0
    assert "8 x 24 tokens of tokens.npy" in out
    assert "backbone.layers.1.mixer" in out


def test_hsv_json_picture_and_csv_hold_the_same_values(run, mamba2, tokens, tmp_path):
    picture, table = tmp_path / "hsv.svg", tmp_path / "hsv.csv"
    code, out, _ = run("hsv", mamba2, "--tokens", tokens, "--json", "--plot", picture, "--csv", table)
    document = json.loads(out)
    assert code == 0
    assert document["tokens"]["sequences"] == 8
    mixer = document["layers"][0]["mixers"][0]
    assert len(mixer["values"][0]) == 16
    assert len(mixer["predicted_error"]) == 17
    rows = list(csv.DictReader(table.open()))
    assert [float(row["sigma"]) for row in rows[:16]] == mixer["values"][0]
    assert picture.read_text().startswith("<?xml")


def test_hsv_on_the_models_own_text_is_seeded(run, mamba2):
    outs = [run("hsv", mamba2, "--self", 4, "--length", 20, "--seed", seed, "--json").out for seed in (0, 0, 1)]
    values = [json.loads(out)["layers"][0]["mixers"][0]["values"] for out in outs]
    assert values[0] == values[1] != values[2]
    assert "sampled from the model itself, seed 0" in json.loads(outs[0])["tokens"]["description"]


@pytest.mark.parametrize("export", ["stock", "projected"])
def test_compress_writes_what_it_reports(run, mamba2, tokens, tmp_path, export):
    out = tmp_path / "out"
    extra = ["--refit", 2] if export == "stock" else []
    code, text, _ = run("compress", mamba2, "--rank", 4, "--tokens", tokens, "--export", export, "-o", out, *extra)
    assert code == 0
    assert "16 → 4" in text
    assert "25.0 %" in text
    assert (out / "model.safetensors").exists()


def test_compress_json(run, mamba2, tokens):
    arguments = ("--budget", 0.25, "--tokens", tokens, "--select", "ghost", "--dry-run", "--json")
    document = json.loads(run("compress", mamba2, *arguments).out)
    assert document["select"] == "ghost"
    assert document["refit_steps"] == 0
    assert document["output"] is None
    assert [layer["states_after"] for layer in document["layers"]] == [4, 4]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["compress", "--rank", "4"], "none are given"),
        (["compress", "--rank", "4", "--per-layer", "--self", "2"], "--per-layer"),
        (["hsv", "--plot", "a.svg"], "need tokens"),
        (["hsv", "--tokens", "a.npy", "--self", "3"], "--tokens and --self given"),
        (["hsv", "--tokens", "missing.npy"], "No such file"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(run, mamba2, arguments, text):
    command, *rest = arguments
    code, out, err = run(command, mamba2, *rest)
    assert (code, out) == (2, "")
    assert text in err
    assert err.count("\n") == 1


def test_options_of_selective_models_are_refused_for_others(run, s4d, tokens):
    for arguments in (["hsv"], ["compress", "--rank", "2"]):
        code, _, err = run(arguments[0], s4d, *arguments[1:], "--tokens", tokens)
        assert code == 2
        assert "for selective layers" in err


def test_a_vocabulary_that_is_too_small(run, mamba2, tmp_path):
    path = tmp_path / "big.npy"
    np.save(path, np.full((2, 16), 300))
    code, _, err = run("hsv", mamba2, "--tokens", path)
    assert code == 2
    assert "token 300" in err
