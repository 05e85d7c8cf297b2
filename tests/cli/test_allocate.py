"""ssmtool compress --allocate."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.torch import save_file

from ssmtool.reference.layouts._contract import Sizes
from ssmtool.reference.model import create


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(create("s4d", Sizes(1, 3, 2, (6, 6)), seed=0).state_dict(), path)
    return path


@pytest.fixture
def inputs(tmp_path):
    path = tmp_path / "inputs.npy"
    np.save(path, np.random.default_rng(0).standard_normal((8, 16, 1)).astype(np.float32))
    return path


@pytest.fixture
def labels(tmp_path):
    path = tmp_path / "labels.npy"
    np.save(path, np.arange(8) % 2)
    return path


def test_every_candidate_is_shown_and_what_won(run, model, inputs, labels):
    best = ("compress", model, "--budget", 0.34, "--allocate", "best", "--calibrate", inputs, "--dry-run")
    code, out, err = run(*best, "--labels", labels, "--per-layer", "--per-channel")
    assert (code, err) == (0, "")
    for name in ("uniform", "bound", "sensitivity", "bound, channels", "sensitivity, channels"):
        assert sum(line.startswith(f"{name} ") for line in out.splitlines()) == 1
    assert "cross-entropy" in out
    assert out.count(" kept\n") == 1
    code, out, _ = run(*best, "--json")
    allocation = json.loads(out)["allocation"]
    assert code == 0
    assert allocation["measure"] == "divergence"
    assert allocation["total"] == 2 * 3 * 4
    allowed = [c for c in allocation["candidates"] if c["allowed"]]
    kept = next(c for c in allowed if c["name"] == allocation["kept"])
    assert kept["loss"] == min(c["loss"] for c in allowed)


def test_a_bound_needs_no_data(run, model):
    code, out, _ = run("compress", model, "--rank", 4, "--allocate", "bound", "--per-layer", "--dry-run", "--json")
    allocation = json.loads(out)["allocation"]
    assert code == 0
    assert allocation["measure"] == ""
    assert [c["states"] for c in allocation["candidates"]] == [24]


def test_by_default_there_is_no_allocation(run, model):
    code, out, _ = run("compress", model, "--rank", 4, "--dry-run", "--json")
    assert code == 0
    assert json.loads(out)["allocation"] is None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--rank", 4, "--allocate", "best"], "--calibrate FILE"),
        (["--rank", 4, "--allocate", "sensitivity"], "--calibrate FILE"),
        (["--energy", 0.9, "--allocate", "bound"], "--energy sets none"),
        (["--allocate", "bound"], "0 targets given"),
        (["--rank", 4, "--allocate", "fair"], "no allocation 'fair'"),
        (["--rank", 4, "--per-channel"], "--per-channel needs --allocate"),
        (["--rank", 4, "--allocate", "bound", "--labels", "x.npy"], "--labels needs --calibrate"),
        (["--rank", 4, "--labels", "x.npy"], "--labels needs --allocate"),
    ],
)
def test_bad_combinations(run, model, options, says):
    code, out, err = run("compress", model, "--dry-run", *options)
    assert (code, out) == (2, "")
    assert says in err


def test_labels_that_are_no_classes(run, model, inputs, tmp_path):
    path = tmp_path / "labels.npy"
    np.save(path, np.full(8, 0.5))
    code, _, err = run(
        "compress", model, "--rank", 4, "--allocate", "best", "--calibrate", inputs, "--labels", path, "--dry-run"
    )
    assert code == 2
    assert "not class numbers" in err
