"""ssmtool validate."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ssmtool_kernels import native


@pytest.fixture
def pair(run, s4d):
    """A checkpoint and the same reduced."""
    return s4d, run("compress", s4d, "--rank", 2, "--quiet").out.strip()


def test_passes_and_says_so(run, pair):
    code, out, err = run("validate", *pair, "--length", 64)
    assert (code, err) == (0, "")
    assert "Passed: 2 of 2 layers within the bound" in out
    assert "noise" in out
    assert "speed-up" in out


def test_json(run, pair):
    code, out, _ = run("validate", *pair, "--length", 64, "--json")
    document = json.loads(out)
    assert code == 0
    assert (document["passed"], document["length"], document["max_error"]) == (True, 64, None)
    assert document["input"]["path"] == str(pair[0])
    assert document["reduced"]["path"] == pair[1]
    for layer in document["layers"]:
        assert (layer["slots_before"], layer["slots_after"]) == (3, 2)
        assert layer["hinf"] <= layer["bound"]
        assert [row["input"] for row in layer["inputs"]] == ["noise", "impulse", "step"]
        assert layer["agreement_before"]["scan"] < 1e-3
        assert layer["speedup"] == layer["seconds_before"] / layer["seconds_after"]


@pytest.mark.parametrize("method", ["residualised", "hankel_norm", "relative_error"])
def test_methods_that_change_the_feedthrough_pass_too(run, s4d, tmp_path, method):
    """Their bound holds for the whole transfer function, D included."""
    small = tmp_path / "small"
    assert run("compress", s4d, "--rank", 2, "--method", method, "-o", small).code == 0
    code, out, _ = run("validate", s4d, small)
    assert code == 0, out


def test_exit_code_1_beyond_max_error(run, pair):
    code, out, err = run("validate", *pair, "--length", 64, "--max-error", 1e-9)
    assert (code, err) == (1, "")
    assert "Failed: 0 of 2" in out
    assert "s4_layers.0: " in out
    code, out, _ = run("validate", *pair, "--length", 64, "--max-error", 1e-9, "--json")
    assert code == 1
    assert json.loads(out)["passed"] is False


def test_quiet_says_only_what_fails(run, pair):
    assert run("validate", *pair, "--length", 64, "--quiet") == (0, "", "")
    code, out, err = run("validate", *pair, "--length", 64, "--quiet", "--max-error", 1e-9)
    assert (code, out) == (1, "")
    assert err.count("\n") == 2


def test_inputs_from_a_file(run, pair, tmp_path):
    file = tmp_path / "recorded.npy"
    np.save(file, np.random.default_rng(0).standard_normal((50, 4)))
    document = json.loads(run("validate", *pair, "--inputs", file, "--json").out)
    assert document["length"] == 50
    assert document["options"]["inputs"] == str(file)


@pytest.mark.parametrize(
    "options",
    [
        ["--length", "0"],
        ["--max-error", "nan"],
        ["--max-error", "-1"],
        ["--inputs", "none.npy"],
        ["--layers", "nothing"],
        ["--seed", "-1"],
    ],
)
def test_wrong_options_exit_2(run, pair, options):
    code, out, err = run("validate", *pair, *options, "--json")
    assert (code, out) == (2, "")
    assert "internal" not in err
    assert err.count("\n") == 1


def test_checkpoints_that_do_not_belong_together_exit_2(run, s4d, tiny):
    code, out, err = run("validate", s4d, tiny("neutral", "batch"))
    assert (code, out) == (2, "")
    assert "internal" not in err


@pytest.mark.parametrize("backend", ["naive", "cpu", "torch"])
def test_scans_run_on_the_backend_that_was_asked_for(run, pair, backend):
    if backend == "cpu" and native.missing():
        pytest.skip(native.missing())
    code, out, err = run("validate", *pair, "--length", 64, "--backend", backend, "--json")
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert document["backend"] == backend
    for layer in document["layers"]:
        assert layer["operation"] == "diagonal_scan"
        assert 0 < layer["agreement_before"]["scan"] < 1e-5
        assert 0 < layer["agreement_after"]["scan"] < 1e-5
        assert layer["floor_before"] is None
    assert f"backend {backend}" in run("validate", *pair, "--length", 64, "--backend", backend).out


def test_a_backend_that_cannot_run_here(run, pair, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    code, out, err = run("validate", *pair, "--backend", "triton", "--device", "cpu")
    assert (code, out) == (2, "")
    assert "backend triton" in err
    assert len(err.strip().splitlines()) == 1
