"""Opening a checkpoint: which layers are found, under which names, and what is said when none or too many are."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ssmtool import plugins
from ssmtool.errors import CheckpointError, FamilyError, UsageError
from ssmtool.pipeline import model as module
from ssmtool.pipeline.model import load
from tests.pipeline.checkpoints import tiny, write_folder


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "model", *tiny("s4d", "s4d"))


def test_a_file_and_its_directory_hold_the_same_layers(folder):
    assert load(folder).layers == load(folder / "model.safetensors").layers


def test_layers_come_in_checkpoint_order(tmp_path):
    tensors, config = tiny("s4d", "s4d")
    folder = write_folder(tmp_path / "model", tensors, config)
    assert [layer.name for layer in load(folder).layers] == ["s4_layers.0", "s4_layers.1"]


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod.", "model."])
def test_wrappers_do_not_show_in_layer_names(tmp_path, wrapper):
    tensors, config = tiny("s4d", "s4d")
    folder = write_folder(tmp_path / "model", {wrapper + name: t for name, t in tensors.items()}, config)
    model = load(folder)
    assert [layer.name for layer in model.layers] == ["s4_layers.0", "s4_layers.1"]
    assert all(name.startswith(wrapper) for layer in model.layers for name in layer.tensors.values())


def test_selection_by_name_and_glob(folder):
    model = load(folder)
    assert [layer.name for layer in model.select(["s4_layers.1"])] == ["s4_layers.1"]
    assert model.select(["s4_*"]) == model.select(None) == model.select([]) == model.layers
    assert model.select(["*.1", "s4_layers.0"]) == model.layers
    with pytest.raises(UsageError, match=r"no layer matches 'decoder'.*s4_layers\.0, s4_layers\.1"):
        model.select(["s4_layers.0", "decoder"])


def test_the_family_can_be_forced(folder):
    assert load(folder, family="s4d").layers == load(folder).layers
    with pytest.raises(FamilyError, match="no layer of family lru"):
        load(folder, family="lru")
    with pytest.raises(UsageError, match=r"there is no family 's6'.*s4d"):
        load(folder, family="s6")


def test_an_unknown_model_is_described_by_what_was_seen_and_what_is_known(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({f"layers.{i}.{x}": torch.zeros(2) for i in range(3) for x in ("q.weight", "k.weight")}, path)
    with pytest.raises(FamilyError) as caught:
        load(path)
    text = str(caught.value)
    assert str(path) in text
    assert "6 tensors" in text
    assert "q.weight" in text
    assert "k.weight" in text
    assert all(name in text for name in plugins.names("ssmtool.families"))


def test_a_layer_claimed_twice_is_an_error_that_names_both(folder, monkeypatch):
    known = plugins.load("ssmtool.families", "s4d")
    double = SimpleNamespace(layers=known.layers, VARIANTS=known.VARIANTS)
    names, get = plugins.names, plugins.load
    fake = SimpleNamespace(
        names=lambda package: (*names(package), "twin"),
        load=lambda package, name: double if name == "twin" else get(package, name),
    )
    monkeypatch.setattr(module, "plugins", fake)
    with pytest.raises(FamilyError, match=r"claimed by s4d and by s4d.*--family"):
        load(folder)


def test_missing_and_damaged_files_are_checkpoint_errors(tmp_path, folder):
    with pytest.raises(CheckpointError):
        load(tmp_path / "nothing.safetensors")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises(CheckpointError):
        load(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_when_they_are_read(tmp_path, value):
    tensors, config = tiny("s4d", "s4d")
    tensors["s4_layers.1.kernel.C"][0, 0, 0] = value
    model = load(write_folder(tmp_path / "model", tensors, config))
    assert len(model.hsv(["s4_layers.0"], device="cpu")) == 1
    with pytest.raises(CheckpointError, match=r"1 of 24 values are NaN or infinite"):
        model.hsv(device="cpu")


def test_spectra_have_the_layers_sizes_and_report_progress(folder):
    model, seen = load(folder), []
    for found in model.hsv(device="cpu", progress=lambda layer, done, total: seen.append((layer.name, done, total))):
        assert found.spectrum.sigma.shape == (found.layer.systems, found.layer.order)
    assert ("s4_layers.0", 4, 4) in seen
    assert seen[-1] == ("s4_layers.1", 4, 4)


@pytest.mark.parametrize("wrap", ["state_dict", "model", None])
def test_pickles_are_read_nested_or_not(tmp_path, wrap):
    tensors, _ = tiny("s4d", "s4d")
    path = tmp_path / "last.pt"
    torch.save(tensors if wrap is None else {wrap: tensors, "epoch": 3}, path)
    assert [layer.name for layer in load(path).layers] == ["s4_layers.0", "s4_layers.1"]


def test_a_config_that_is_no_json_object_is_refused(folder):
    (folder / "config.json").write_text(json.dumps([1, 2]))
    with pytest.raises(CheckpointError):
        load(folder)
