"""ssmtool diagnose."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ssmtool import plugins
from ssmtool.analyses.timescales import Timescales
from ssmtool.pipeline.diagnose import diagnose
from ssmtool.pipeline.model import load
from tests.pipeline.language_models import byte_model

FIXTURE = Path(__file__).parents[2] / "fixtures" / "digits-s4d.safetensors"
SECTIONS = plugins.names("ssmtool.analyses")


@pytest.fixture(scope="module")
def mamba(tmp_path_factory) -> Path:
    return byte_model(tmp_path_factory.mktemp("models") / "mamba", "mamba")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tokens") / "tokens.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (6, 48)))
    return path


def test_a_linear_checkpoint_has_every_section(run, s4d):
    code, out, err = run("diagnose", s4d)
    assert (code, err) == (0, "")
    for name in SECTIONS:
        assert name.replace("_", " ").upper() in out
    assert "s4_layers.1" in out
    assert "No selective layer" in out
    assert "states for a 10 % error" in out


def test_json_holds_what_the_library_finds(run, s4d):
    code, out, _ = run("diagnose", s4d, "--json")
    document = json.loads(out)
    assert (code, document["schema_version"], document["command"]) == (0, 1, "diagnose")
    assert list(document["sections"]) == list(SECTIONS)
    assert document["tokens"] is document["task"] is None
    found = diagnose(load(s4d)).sections["timescales"]
    assert isinstance(found, Timescales)
    for layer, row in zip(document["sections"]["timescales"]["layers"], found.layers, strict=True):
        assert layer["radius"] == row.radius
        assert layer["half_life"]["median"] == row.half_life.median
    assert [layer["name"] for layer in document["layers"]] == ["s4_layers.0", "s4_layers.1"]


def test_a_selective_checkpoint_without_tokens_says_what_it_needs(run, mamba):
    code, out, _ = run("diagnose", mamba)
    assert code == 0
    assert out.count("--tokens FILE, --text FILE or") >= 4
    assert "dt_bias alone" in out


def test_tokens_feed_every_section(run, mamba, tokens):
    code, out, err = run("diagnose", mamba, "--tokens", tokens, "--json")
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert (document["tokens"]["sequences"], document["tokens"]["length"]) == (6, 48)
    assert document["tokens"]["description"] == "6 x 48 tokens of tokens.npy"
    assert not any(section["missing"] for section in document["sections"].values())
    text = run("diagnose", mamba, "--tokens", tokens).out
    assert "on 6 × 48 of 6 x 48 tokens of tokens.npy" in text
    assert "--tokens" not in text


def test_the_model_s_own_tokens(run, mamba):
    first = run("diagnose", mamba, "--self", 2, "--length", 32, "--section", "timescales", "--json").out
    again = run("diagnose", mamba, "--self", 2, "--length", 32, "--section", "timescales", "--json").out
    assert first == again
    assert "sampled from the model itself" in json.loads(first)["tokens"]["description"]


def test_sections_and_layers_are_chosen(run, s4d):
    out = run("diagnose", s4d, "--section", "memory", "--section", "timescales", "--layer", "*.1", "--json").out
    document = json.loads(out)
    assert list(document["sections"]) == ["memory", "timescales"]
    assert [layer["name"] for layer in document["sections"]["memory"]["layers"]] == ["s4_layers.1"]


def test_accuracy_on_a_task(run, s4d):
    code, out, _ = run("diagnose", FIXTURE, "--section", "timescales", "--task", "digits", "--device", "cpu")
    recorded = json.loads(FIXTURE.with_suffix(".json").read_text(encoding="utf-8"))["test"]["accuracy"]
    assert code == 0
    assert f"accuracy {100 * recorded:.2f} %" in out
    code, out, err = run("diagnose", s4d, "--section", "timescales", "--task", "digits")
    assert (code, out) == (2, "")
    assert "internal" not in err


def test_one_picture_per_section(run, mamba, tokens, tmp_path):
    code, out, _ = run("diagnose", mamba, "--tokens", tokens, "--plot", tmp_path)
    assert code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{name}.svg" for name in SECTIONS]
    assert f"Wrote {tmp_path / 'memory.svg'}" in out
    run("diagnose", mamba, "--section", "timescales", "--plot", tmp_path / "one.png", "--quiet")
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    first = (tmp_path / "timescales.svg").read_bytes()
    run("diagnose", mamba, "--tokens", tokens, "--section", "timescales", "--plot", tmp_path, "--quiet")
    assert (tmp_path / "timescales.svg").read_bytes() == first


def test_several_sections_in_one_format(run, s4d, tmp_path):
    code, _, _ = run(
        "diagnose", s4d, "--section", "memory", "--section", "relevance", "--plot", tmp_path / "a.png", "--quiet"
    )
    assert code == 0
    assert [path.name for path in tmp_path.glob("*.png")] == ["a-memory.png"]  # relevance has nothing to draw


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--section", "colour"), "no section 'colour'"),
        (("--plot", "no/folder"), "mkdir -p"),
        (("--plot", "a.jpg"), ".svg or .png or .pdf"),
        (("--layer", "x.*"), "no layer matches"),
        (("--bytes",), "--bytes and --sequences need"),
        (("--self", "2", "--tokens", "x.npy"), "exactly one"),
        (("--self", "2"), "input-dependent"),
    ],
)
def test_refusals(run, s4d, options, reason):
    code, out, err = run("diagnose", s4d, *options)
    assert (code, out) == (2, "")
    assert reason in err
    assert "internal" not in err


def test_a_section_too_many_is_refused_before_the_model_is_read(run, tmp_path):
    assert "no section" in run("diagnose", tmp_path / "nothing", "--section", "colour").err
