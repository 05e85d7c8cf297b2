"""ssmtool inspect."""

from __future__ import annotations

import json

import numpy as np
from safetensors.numpy import save_file


def test_text_names_every_layer_and_its_sizes(run, s4d):
    code, out, err = run("inspect", s4d)
    assert (code, err) == (0, "")
    row = next(line for line in out.splitlines() if line.startswith("s4_layers.1"))
    assert row.split() == ["s4_layers.1", "s4d", "4×1→1", "3", "6", "4", "F32", "56", "23.8", "%", "LTI"]
    assert "112 of 235 parameters (47.7 %)" in out


def test_json_counts_what_the_checkpoint_holds(run, s4d):
    code, out, _ = run("inspect", s4d, "--json")
    document = json.loads(out)
    assert code == 0
    assert (document["schema_version"], document["command"], document["tool"]["name"]) == (1, "inspect", "ssmtool")
    assert document["input"] == {"path": str(s4d), "kind": "directory", "sha256": None, "tensors": 22, "bytes": 940}
    assert document["parameters"] == 235
    assert document["state_space_share"] == 112 / 235
    layer = document["layers"][0]
    assert (layer["systems"], layer["stored_slots"], layer["order"], layer["channels"]) == (4, 3, 6, 4)
    assert layer["dtypes"] == ["F32"]
    assert layer["lti"] is True
    assert layer["tensors"]["C"] == "s4_layers.0.kernel.C"


def test_quiet_prints_nothing(run, s4d):
    assert run("inspect", s4d, "--quiet") == (0, "", "")


def test_notes_are_said_once_for_all_layers(run, tiny):
    out = run("inspect", tiny("s4", "v3-nplr")).out
    assert out.count("A reduced layer is diagonal") == 1
    assert "layers.0.layer, layers.1.layer:" in out


def test_family_can_be_forced(run, s4d):
    assert run("inspect", s4d, "--family", "s4d").code == 0
    code, out, err = run("inspect", s4d, "--family", "lru")
    assert (code, out) == (2, "")
    assert "no layer of family lru" in err


def test_unknown_family_lists_the_known_ones(run, s4d):
    code, out, err = run("inspect", s4d, "--family", "mega")
    assert (code, out) == (2, "")
    assert "'mega'" in err
    assert "s4d" in err


def test_unknown_tensors_are_listed_with_the_known_families(run, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"mega.0.gate": np.zeros(3, np.float32)}, path)
    code, out, err = run("inspect", path)
    assert (code, out) == (2, "")
    assert "gate" in err
    assert "s5_pytorch" in err
    assert err.count("\n") == 1


def test_a_missing_file_is_one_line(run, tmp_path):
    code, out, err = run("inspect", tmp_path / "none.safetensors", "--json")
    assert (code, out) == (2, "")
    assert err.startswith("ssmtool: error: ")
    assert "none.safetensors" in err
    assert err.count("\n") == 1


def test_long_layer_names_are_whole_when_piped(run, tiny):
    def rename(tensors):
        for name in list(tensors):
            if name.startswith("s4_layers.0."):
                tensors[name.replace("s4_layers", "backbone." + "very_long_part." * 9 + "s4_layers")] = tensors.pop(
                    name
                )

    out = run("inspect", tiny("s4d", "s4d", rename)).out
    assert "backbone." + "very_long_part." * 9 + "s4_layers.0" in out
