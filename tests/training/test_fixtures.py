"""The checkpoints in fixtures/ are what their records say."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ssmtool
from ssmtool.checkpoint import open_checkpoint
from ssmtool.pipeline.language import compare
from ssmtool.training.evaluate import evaluate
from ssmtool.training.language.recipe import LANGUAGE_RECIPES
from ssmtool.training.recipe import RECIPES

FIXTURES = Path(__file__).parents[2] / "fixtures"
LEAST = {"s4d": 0.96, "s5": 0.96, "lru": 0.96}
MILLION = 1_000_000
KEYS = {
    "file",
    "bytes",
    "script",
    "command",
    "seed",
    "recipe",
    "training_seconds",
    "final_training_loss",
    "validation_accuracy",
    "test",
    "parameters",
    "state_slots",
    "python",
    "machine",
    "packages",
}


def record(layout: str) -> dict[str, Any]:
    return json.loads((FIXTURES / f"digits-{layout}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("layout", LEAST)
def test_record_is_complete(layout: str) -> None:
    found = record(layout)
    assert set(found) == KEYS
    assert found["recipe"] == asdict(RECIPES[layout])
    assert found["command"] == f"python fixtures/make.py {layout} --seed {found['seed']}"
    assert (FIXTURES.parent / found["script"]).is_file()
    assert set(found["packages"]) == {"torch", "numpy", "scikit-learn", "safetensors"}


@pytest.mark.parametrize("layout", LEAST)
def test_checkpoint_is_small_and_says_what_it_is(layout: str) -> None:
    found, path = record(layout), FIXTURES / f"digits-{layout}.safetensors"
    assert path.name == found["file"]
    assert path.stat().st_size == found["bytes"] < MILLION
    assert open_checkpoint(path).metadata == {
        "format": "pt",
        "model": f"ssmtool-reference-{layout}",
        "task": "digits",
    }


@pytest.mark.parametrize("layout", LEAST)
def test_checkpoint_reaches_the_recorded_accuracy(layout: str) -> None:
    found, result = record(layout), evaluate(FIXTURES / f"digits-{layout}.safetensors")
    assert (result.correct, result.total) == (found["test"]["correct"], found["test"]["total"])
    assert result.accuracy == found["test"]["accuracy"] >= LEAST[layout]
    assert (result.parameters, result.state_slots) == (found["parameters"], found["state_slots"])


LANGUAGE = {"mamba": 16, "mamba2": 64}


@pytest.mark.parametrize("kind", LANGUAGE)
def test_language_model_is_what_its_record_says(kind: str) -> None:
    found = json.loads((FIXTURES / f"bytes-{kind}.json").read_text(encoding="utf-8"))
    assert found["recipe"] == asdict(LANGUAGE_RECIPES[kind])
    assert found["command"] == f"python fixtures/make_language.py {kind} --seed {found['seed']}"
    assert (FIXTURES / found["file"]).stat().st_size == found["bytes"]
    model = ssmtool.load(FIXTURES / f"bytes-{kind}")
    assert {layer.slots for layer in model.layers} == {LANGUAGE[kind]}
    assert found["held_out_perplexity_per_byte"] < 4.2


@pytest.mark.parametrize("kind", LANGUAGE)
def test_language_model_predicts_held_out_text(kind: str) -> None:
    """On some of the sequences: close to what the record has of all of them."""
    found = json.loads((FIXTURES / f"bytes-{kind}.json").read_text(encoding="utf-8"))
    runner = ssmtool.open_runner(ssmtool.load(FIXTURES / f"bytes-{kind}"), "cpu")
    tokens = np.load(FIXTURES / "stdlib-heldout.npy")[::8]
    perplexity = compare(runner, runner, tokens).perplexity_original
    assert perplexity == pytest.approx(found["held_out_perplexity_per_byte"], rel=0.15)
