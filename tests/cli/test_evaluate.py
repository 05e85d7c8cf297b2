"""ssmtool evaluate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

FIXTURE = Path(__file__).parents[2] / "fixtures" / "digits-s4d.safetensors"


@pytest.fixture(scope="module")
def recorded() -> float:
    """Accuracy noted when the checkpoint was trained."""
    return json.loads(FIXTURE.with_suffix(".json").read_text(encoding="utf-8"))["test"]["accuracy"]


def test_accuracy_of_each_checkpoint(run, recorded):
    code, out, err = run("evaluate", FIXTURE)
    assert (code, err) == (0, "")
    assert f"{100 * recorded:.2f} %" in out
    assert "/360" in out


def test_json(run, recorded):
    code, out, _ = run("evaluate", FIXTURE, "--json", "--device", "cpu")
    document = json.loads(out)
    assert code == 0
    result = document["results"][0]
    assert result["accuracy"] == result["correct"] / result["total"] == recorded
    assert result["stored_modes"] == 4 * 64 * 32
    assert document["input"][0]["path"] == str(FIXTURE)


def test_quiet_prints_the_number(run, recorded):
    assert run("evaluate", FIXTURE, "--quiet").out == f"{recorded:.4f}\n"


def test_other_models_and_tasks_exit_2(run, s4d):
    code, out, err = run("evaluate", s4d)
    assert (code, out) == (2, "")
    assert "internal" not in err
    code, out, err = run("evaluate", FIXTURE, "--task", "letters")
    assert (code, out) == (2, "")
    assert "digits" in err
