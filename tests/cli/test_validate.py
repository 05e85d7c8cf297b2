"""ssmtool validate."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from ssmtool.lti.impulse import impulse_response
from ssmtool.lti.systems import DiagonalSystem
from ssmtool_kernels import native
from tests.pipeline.checkpoints import measured_errors, systems_of


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


@pytest.fixture
def kept(run, unstable, tmp_path):
    """A checkpoint with one pair of modes outside the unit circle, and the same reduced."""
    small = tmp_path / "small.safetensors"
    assert run("compress", unstable, "--rank", 4, "-o", small, "--quiet").code == 0
    return unstable, small


def without_the_first_slot(system):
    """The stable rest of the first of three systems: the pair that the fixture pushed out is slot 0 of system 0."""
    outside = system.a.real > 0
    a = np.where(outside, -1.0, system.a)
    return DiagonalSystem(a, np.where(outside[:, :, None], 0, system.B), system.C, system.D)


def test_states_that_are_not_stable_are_set_aside(run, kept):
    """Errors are those of the systems without these modes, computed from impulse responses and sums alone."""
    before, after = (without_the_first_slot(systems_of(path, "neutral", None)["layers.0.ssm"][1]) for path in kept)
    code, out, _ = run("validate", *kept, "--length", 64, "--json")
    first, second = json.loads(out)["layers"]
    assert code == 0
    assert (first["compared"], first["unstable_before"], first["unstable_after"]) == ("stable part", 2, 2)
    assert (second["compared"], second["unstable_before"], second["unstable_deviation"]) == ("whole", 0, None)
    assert first["unstable_deviation"] <= 1e-6
    sigma = [np.linalg.svd(hankel(impulse_response(before, 500)[s]), compute_uv=False)[0] for s in range(3)]
    hinf = measured_errors(before, after)[1]
    assert first["hinf"] == pytest.approx((hinf / sigma).max(), rel=1e-3)  # the grid of the transform
    assert first["hinf"] <= first["bound"]
    impulse = next(row for row in first["inputs"] if row["input"] == "impulse")
    h, g = (impulse_response(system, 64).sum(axis=2) for system in (before, after))  # all inputs at once
    expected = np.sqrt(np.square(h - g).sum(axis=(1, 2)) / np.square(h).sum(axis=(1, 2))).max()
    assert impulse["error"] == pytest.approx(expected, rel=1e-5)  # of a float32 scan
    text = " ".join(run("validate", *kept, "--length", 64).out.split())
    assert "layers.0.ssm: 2 states on or outside the unit circle, the same in both" in text
    assert "those of the stable part" in text
    assert "Passed: 2 of 2" in text


def hankel(h):
    """Block Hankel matrix (250 p, 250 m) of the lags (p, m, L) from 0 on: B u enters the output at once here."""
    return np.block([[h[:, :, i + j] for j in range(250)] for i in range(250)])


@pytest.mark.parametrize(
    ("leaf", "change", "words"),
    [
        ("lambda_log", lambda x: x + 1e-3, "other poles"),
        ("lambda_log", lambda x: -x, "0 in place of 2"),
        ("C", lambda x: 1.1 * x, "the same poles with other weights"),
    ],
)
def test_other_states_outside_the_circle_are_a_failure(run, kept, leaf, change, words):
    original, small = kept
    with safe_open(small, "np") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    poles = tensors["model.layers.0.ssm.lambda_log"][..., 0]
    place = tuple(index[0] for index in np.nonzero(poles > 0))
    values = tensors[f"model.layers.0.ssm.{leaf}"]
    at = (place[0], 0, place[1], 0) if leaf == "C" else (*place, 0)
    values[at] = change(values[at])
    save_file(tensors, small, metadata)
    code, out, err = run("validate", original, small, "--length", 64)
    assert (code, err) == (1, "")
    said = " ".join(out.split())
    assert (
        f"layers.0.ssm: states on or outside the unit circle are not those of the original in system 0: {words}" in said
    )
    assert "not the same in both" in said
    assert "∞" in said
    assert "Failed: 1 of 2" in said
    layer = json.loads(run("validate", original, small, "--length", 64, "--json").out)["layers"][0]
    assert (layer["passed"], layer["hinf"], layer["hinf_within"]) == (False, "Infinity", False)


def test_a_state_that_left_the_circle_in_the_reduced_model_is_a_failure(run, tiny, tmp_path):
    original, small = tiny("neutral", "batch"), tmp_path / "small.safetensors"
    assert run("compress", original, "--rank", 4, "-o", small, "--quiet").code == 0
    with safe_open(small, "np") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors["model.layers.1.ssm.lambda_log"][2, 0, 0] = 1e-4
    save_file(tensors, small, metadata)
    code, out, _ = run("validate", original, small, "--length", 64)
    assert code == 1
    assert "in system 2: 2 in place of 0" in " ".join(out.split())


def test_a_model_and_itself(run, unstable):
    code, out, _ = run("validate", unstable, unstable, "--length", 64, "--json")
    assert code == 0
    for layer in json.loads(out)["layers"]:
        assert layer["hinf"] == 0
        assert [row["error"] for row in layer["inputs"]] == [0, 0, 0]
