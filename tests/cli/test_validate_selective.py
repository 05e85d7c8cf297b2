"""ssmtool validate on selective models."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from ssmtool.pipeline.model import load
from ssmtool.pipeline.projected import write_projected
from tests.pipeline.language_models import byte_model, tokens


@pytest.fixture(autouse=True)
def short_timing(monkeypatch):
    monkeypatch.setattr("ssmtool.pipeline.language.DECODED", 2)


@pytest.fixture
def original(tmp_path):
    return byte_model(tmp_path / "model", "mamba2")


@pytest.fixture
def heldout(tmp_path):
    np.save(tmp_path / "heldout.npy", tokens(4, 40).numpy().astype(np.uint8))
    return tmp_path / "heldout.npy"


@pytest.fixture
def reduced(run, original, heldout):
    code, out, err = run(
        "compress", original, "--rank", 6, "--export", "projected", "--tokens", heldout, "--quiet",
    )  # fmt: skip
    assert (code, err) == (0, "")
    return out.strip()


def test_says_what_is_lost(run, original, reduced, heldout):
    code, out, err = run("validate", original, reduced, "--tokens", heldout)
    assert (code, err) == (0, "")
    for word in ("perplexity", "bits per token", "state", "decoding, tokens/s", "KL divergence", "16 → 6"):
        assert word in out
    assert "on 4 x 40 tokens of heldout.npy, 156 predictions" in out
    assert "No limit was given" in out


def test_json(run, original, reduced, heldout):
    code, out, _ = run("validate", original, reduced, "--tokens", heldout, "--json", "--max-kl", 10)
    document = json.loads(out)
    assert code == 0
    assert (document["passed"], document["reasons"], document["max_kl"]) == (True, [], 10)
    assert document["input"]["path"] == str(original)
    assert document["tokens"]["sequences"] == 4
    language = document["language"]
    assert language["predictions"] == 4 * 39
    assert language["perplexity_after"] == pytest.approx(np.exp(language["loss_after"]))
    assert language["kl"] > 0
    inner, conv = 64, 3 * (64 + 2 * 16)
    assert document["state_bytes_before"] == 2 * 4 * (inner * 16 + conv)
    assert document["state_bytes_after"] == 2 * 4 * (inner * 6 + conv)
    assert document["decoding_after"] > 0
    for layer in document["layers"]:
        assert (layer["states_before"], layer["states_after"]) == (16, 6)
        assert layer["predicted_error"] == pytest.approx(layer["scan_error"], rel=0.3)
        assert 0 < layer["output_error"] < 1


@pytest.mark.parametrize("limit", ["--max-kl", "--max-perplexity-increase", "--max-error"])
def test_exit_code_1_beyond_a_limit(run, original, limit):
    other = write_projected(load(original), _noise(original), original.parent / "noise")
    drawn = ("--self", 8, "--length", 48)  # on what the original itself writes, another model is always worse
    code, out, err = run("validate", original, other, *drawn, limit, 1e-9)
    assert (code, err) == (1, "")
    assert f"Failed: {limit} 1e-09" in out
    assert run("validate", original, other, *drawn, limit, 1e9)[0] == 0
    code, out, err = run("validate", original, other, *drawn, limit, 1e-9, "--quiet")
    assert (code, out) == (1, "")
    assert limit in err


def _noise(original):
    rng = np.random.default_rng(0)
    return {
        layer.name: (rng.standard_normal((1, 4, 16)), rng.standard_normal((1, 4, 16)))
        for layer in load(original).layers
    }


def test_a_model_against_itself(run, original, heldout, tmp_path):
    copy = shutil.copytree(original, tmp_path / "copy")
    code, out, _ = run("validate", original, copy, "--tokens", heldout, "--max-kl", 0, "--max-perplexity-increase", 0,
                       "--max-error", 0, "--json")  # fmt: skip
    document = json.loads(out)
    assert code == 0
    assert document["language"]["agreement"] == 1
    assert [layer["predicted_error"] for layer in document["layers"]] == [None, None]


def test_tokens_of_the_original_itself(run, original, reduced):
    code, out, _ = run("validate", original, reduced, "--self", 3, "--length", 20, "--seed", 7)
    assert code == 0
    assert "3 x 20 tokens sampled from the model itself, seed 7" in out


def test_without_tokens_one_line_says_what_is_needed(run, original, reduced):
    code, out, err = run("validate", original, reduced)
    assert (code, out) == (2, "")
    assert err.startswith(
        "ssmtool: error: selective models are compared on tokens, and none are given. Give --tokens FILE"
    )
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tokens", "x.npy", "--self", 3], "--tokens and --self given"),
        (["--bytes"], "--bytes and --sequences need"),
        (["--inputs", "x.npy"], "--inputs is for linear time-invariant layers"),
        (["--max-kl", -1], "--max-kl -1 is not a number from 0 up"),
        (["--max-perplexity-increase", "nan"], "--max-perplexity-increase nan is not a number from 0 up"),
    ],
)
def test_wrong_options(run, original, reduced, options, message):
    code, out, err = run("validate", original, reduced, *options)
    assert (code, out) == (2, "")
    assert message in err


def test_options_of_selective_models_on_others(run, s4d, heldout):
    for options in (["--tokens", heldout], ["--max-kl", 1], ["--max-perplexity-increase", 1]):
        code, _, err = run("validate", s4d, s4d, *options)
        assert code == 2
        assert "are for selective layers" in err


def test_models_that_do_not_belong_together(run, original, reduced, heldout, tmp_path):
    other = byte_model(tmp_path / "other", "mamba2", seed=9)
    code, _, err = run("validate", other, reduced, "--tokens", heldout)
    assert code == 2
    assert "was made from another one" in err
    diagonal = byte_model(tmp_path / "mamba", "mamba")
    code, _, err = run("validate", original, diagonal, "--tokens", heldout)
    assert code == 2
    assert "mamba2" in err
    code, _, err = run("validate", original, other, "--tokens", heldout)
    assert code == 2
    assert "weights outside the state-space layers differ" in err


@pytest.mark.parametrize("backend", ["naive", "torch", "auto"])
def test_the_scans_alone_on_a_backend(run, original, reduced, heldout, backend):
    code, out, err = run("validate", original, reduced, "--tokens", heldout, "--backend", backend, "--json")
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert document["backend"] == (backend if backend != "auto" else document["backend"]) != "auto"
    assert (document["timed_sequences"], document["timed_length"]) == (4, 40)
    for layer in document["layers"]:
        assert layer["operation"] == "ssd"
        assert 0 < layer["rounding_before"] < 1e-5
        assert 0 < layer["rounding_after"] < 1e-5
        assert layer["speedup"] == pytest.approx(layer["seconds_before"] / layer["seconds_after"])
        assert layer["floor_before"] is layer["floor_after"] is None


def test_predictions_do_not_depend_on_the_backend(run, original, reduced, heldout):
    losses = [
        json.loads(run("validate", original, reduced, "--tokens", heldout, "--backend", backend, "--json").out)[
            "language"
        ]
        for backend in ("naive", "auto")
    ]
    assert losses[0]["loss_after"] == pytest.approx(losses[1]["loss_after"], rel=1e-5)
    assert losses[0]["kl"] == pytest.approx(losses[1]["kl"], rel=1e-2)
