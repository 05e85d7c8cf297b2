"""ssmtool compress."""

from __future__ import annotations

import json
import shlex

import pytest

import ssmtool


def test_writes_a_smaller_checkpoint_and_says_what_to_run_next(run, s4d, tmp_path):
    out_path = tmp_path / "smaller"
    code, out, err = run("compress", s4d, "--rank", 2, "-o", out_path)
    assert (code, err) == (0, "")
    assert f"Wrote {out_path}" in out
    assert "3 → 2" in out
    following = next(line for line in out.splitlines() if line.startswith("Next: "))
    assert shlex.split(following)[1:] == ["ssmtool", "validate", str(s4d), str(out_path)]
    assert ssmtool.load(out_path).layers[0].slots == 2
    assert run("validate", s4d, out_path).code == 0


def test_json_says_per_layer_what_was_kept_and_lost(run, s4d, tmp_path):
    code, out, _ = run("compress", s4d, "--rank", 2, "-o", tmp_path / "smaller", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["target"] == "rank 2"
    assert document["output"]["path"] == str(tmp_path / "smaller")
    assert document["bytes_after"] == ssmtool.load(tmp_path / "smaller").checkpoint.data_bytes
    assert document["bytes_before"] == document["input"]["bytes"]
    assert document["options"]["rank"] == 2
    assert document["options"]["energy"] is None
    for layer in document["layers"]:
        assert (layer["stored_slots"], layer["slots_after"], layer["order"]) == (3, 2, 6)
        assert layer["orders_after"] == [2] * 4
        assert layer["method"] == "balanced"
        for error, bound in zip(layer["hinf_error"], layer["bound"], strict=True):
            assert 0 < error <= bound * (1 + 1e-5)  # the stored tensors are rounded to float32
        assert layer["bytes_after"] < layer["bytes_before"]


def test_the_output_is_named_after_the_input_and_the_target(run, s4d):
    code, out, _ = run("compress", s4d, "--rank", 2, "--quiet")
    assert code == 0
    assert out == f"{s4d}-rank2\n"
    assert (s4d.parent / "s4d-rank2" / "model.safetensors").exists()


@pytest.mark.parametrize("quiet", [False, True])
def test_a_dry_run_writes_nothing(run, s4d, quiet):
    before = sorted(s4d.parent.rglob("*"))
    code, out, _ = run("compress", s4d, "--energy", 0.5, "--dry-run", *(["--quiet"] if quiet else []))
    assert code == 0
    assert (out == "") == quiet
    assert sorted(s4d.parent.rglob("*")) == before
    assert json.loads(run("compress", s4d, "--energy", 0.5, "--dry-run", "--json").out)["output"] is None


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "exactly one of --rank, --energy, --error and --budget"),
        (["--rank", "2", "--energy", "0.9"], "exactly one of --rank, --energy, --error and --budget"),
        (["--rank", "0"], "rank 0 is not between 1 and the order 6"),
        (["--rank", "-3"], "rank -3"),
        (["--rank", "7"], "rank 7 is not between 1 and the order 6"),
        (["--rank", "two"], "--rank"),
        (["--energy", "1.5"], "--energy 1.5 is not between 0 and 1"),
        (["--budget", "0"], "--budget 0 is not between 0 and 1"),
        (["--error", "-1"], "--error -1"),
        (["--error", "nan"], "--error nan"),
        (["--error", "1e-30"], "1e-30"),
        (["--rank", "2", "--method", "magic"], "balanced, "),
        (["--rank", "2", "--layers", "nothing*"], "'nothing*'"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_writes_nothing(run, s4d, options, reason):
    before = sorted(s4d.parent.rglob("*"))
    code, out, err = run("compress", s4d, *options, "--json")
    assert (code, out) == (2, "")
    assert reason in err
    assert err.startswith("ssmtool: error: ")
    assert err.count("\n") == 1
    assert sorted(s4d.parent.rglob("*")) == before


def test_an_unreachable_error_names_the_best_reachable(run, s4d):
    err = run("compress", s4d, "--error", "1e-30").err
    assert "best reachable" in err


def test_the_input_is_never_the_output(run, s4d, tmp_path):
    kept = (s4d / "model.safetensors").read_bytes()
    code, _, err = run("compress", s4d, "--rank", 2, "-o", s4d)
    assert code == 2
    assert "is the input itself" in err
    (tmp_path / "taken").mkdir()
    code, _, err = run("compress", s4d, "--rank", 2, "-o", tmp_path / "taken")
    assert code == 2
    assert "exists already" in err
    assert (s4d / "model.safetensors").read_bytes() == kept


def test_states_that_are_not_stable_are_kept_and_said(run, unstable, tmp_path):
    code, out, err = run("compress", unstable, "--rank", 4, "-o", tmp_path / "o.safetensors")
    assert (code, err) == (0, "")
    assert "layers.0" in out
    assert "outside the unit circle: kept as they are" in " ".join(out.split())


def test_another_method_than_asked_for_is_said(run, tiny, tmp_path):
    out = run("compress", tiny("dss", "exp"), "--budget", 0.5, "--dry-run").out
    assert "reduced by subset" in out
    assert "no a priori bound" in out
