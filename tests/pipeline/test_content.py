"""The hash of a layer: the same mathematics has the same, and nothing else has."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from ssmtool.errors import CheckpointError
from ssmtool.pipeline.content import content_of
from ssmtool.pipeline.model import load
from tests.pipeline.checkpoints import CASES, raw, tiny, write_folder


@pytest.mark.parametrize(("family", "variant"), CASES)
def test_every_layer_of_every_family_has_a_hash_of_its_own_that_is_the_same_again(tmp_path, family, variant):
    path = write_folder(tmp_path / "model", *tiny(family, variant))
    model, again = load(path), load(path)
    assert [model.content(layer) for layer in model.layers] == [again.content(layer) for layer in again.layers]
    assert len({model.content(layer) for layer in model.layers}) == len(model.layers)


@pytest.fixture
def checkpoint(tmp_path):
    """Writes a changed copy of a checkpoint of two S4D layers and gives the hashes of its layers."""
    tensors, config = tiny("s4d", "s4d")

    def hashes(change=lambda tensors: None):
        copy = {name: tensor.clone() for name, tensor in tensors.items()}
        change(copy)
        path = tmp_path / str(len(list(tmp_path.iterdir())))
        model = load(write_folder(path, copy, config))
        return [model.content(layer) for layer in model.layers]

    return tensors, hashes


def test_a_bit_of_a_tensor_changes_its_layer_alone(checkpoint):
    tensors, hashes = checkpoint
    before = hashes()
    mine = [name for name in tensors if name.startswith("s4_layers.1.kernel")]
    assert mine

    for name in mine:

        def flip(copy, name=name):
            data = bytearray(raw(copy[name]))
            data[0] ^= 1
            copy[name] = torch.frombuffer(data, dtype=copy[name].dtype).reshape(copy[name].shape)

        after = hashes(flip)
        assert after[0] == before[0]
        assert after[1] != before[1]


def test_tensors_of_no_layer_and_names_of_layers_do_not_count(checkpoint):
    _, hashes = checkpoint
    before = hashes()
    assert hashes(lambda copy: copy.update(head=torch.ones(3))) == before

    def swap(copy):
        for name in [name for name in copy if name.startswith("s4_layers.0.")]:
            other = name.replace(".0.", ".1.", 1)
            copy[name], copy[other] = copy[other], copy[name]

    assert hashes(swap) == before[::-1]


def test_the_stored_dtype_counts_even_where_the_values_are_the_same(checkpoint):
    _, hashes = checkpoint

    def widen(copy):
        copy.update({n: t.double() for n, t in copy.items() if t.dtype == torch.float32})

    assert not set(hashes(widen)) & set(hashes())


def test_every_fact_about_a_layer_counts_but_its_names_and_its_note(tmp_path):
    model = load(write_folder(tmp_path / "model", *tiny("s4d", "s4d")))
    layer = model.layers[0]
    before = model.content(layer)
    for change in (
        {"family": "s5"}, {"variant": "x"}, {"systems": 9}, {"inputs": 9}, {"outputs": 9}, {"slots": 9}, {"order": 9},
        {"lti": False}, {"options": {**layer.options, "more": 1}},
        {"constraints": replace(layer.constraints, export="x")},
    ):  # fmt: skip
        assert content_of(model.checkpoint, replace(layer, **change)) != before
    assert content_of(model.checkpoint, replace(layer, name="x", note="y")) == before


def test_a_pickle_of_the_same_tensors_has_the_same_hash(tmp_path):
    tensors, config = tiny("s4d", "s4d")
    model = load(write_folder(tmp_path / "model", tensors, config))
    (tmp_path / "pickled").mkdir()
    torch.save(tensors, tmp_path / "pickled" / "pytorch_model.bin")
    if config is not None:
        (tmp_path / "pickled" / "config.json").write_text(json.dumps(config))
    other = load(tmp_path / "pickled")
    assert [other.content(layer) for layer in other.layers] == [model.content(layer) for layer in model.layers]


def test_a_file_cut_short_since_it_was_opened_is_an_error(tmp_path):
    path = write_folder(tmp_path / "model", *tiny("s4d", "s4d")) / "model.safetensors"
    model = load(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match="changed while it was in use"):
        model.content(model.layers[-1])
