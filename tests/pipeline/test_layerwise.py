"""Work on many layers: the cache and the engine change how long it takes, never what comes out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ssmtool.cache import Cache
from ssmtool.errors import CheckpointError
from ssmtool.lti.spectrum import Spectrum
from ssmtool.pipeline import content, spectra
from ssmtool.pipeline.model import load
from ssmtool.pipeline.packing import packed
from ssmtool.pipeline.spectra import HsvWork
from tests.pipeline.checkpoints import CASES, tiny, write_folder


def bits(found):
    """What was found, to the bit."""
    fields = [(entry.spectrum.sigma, entry.spectrum.redundant, entry.spectrum.unstable) for entry in found]
    return [
        (entry.layer, *((x.dtype, x.shape, x.tobytes()) for x in row)) for entry, row in zip(found, fields, strict=True)
    ]


@pytest.fixture
def model(tmp_path):
    """Two S4D layers."""
    return load(write_folder(tmp_path / "model", *tiny("s4d", "s4d")))


@pytest.fixture
def computed(monkeypatch):
    """Names of the layers that were computed, not looked up."""
    names, compute = [], HsvWork.compute

    def counted(self, model, layer, step):
        names.append(layer.name)
        return compute(self, model, layer, step)

    monkeypatch.setattr(HsvWork, "compute", counted)
    return names


@pytest.mark.parametrize(("family", "variant"), CASES)
def test_with_a_cache_and_without_every_family_has_the_same_values(tmp_path, computed, family, variant):
    found = load(write_folder(tmp_path / "model", *tiny(family, variant)))
    cache, without = Cache(tmp_path), bits(found.hsv(device="cpu"))
    assert bits(found.hsv(device="cpu", cache=cache)) == without
    del computed[:]
    assert bits(found.hsv(device="cpu", cache=cache)) == without
    assert not computed


def test_only_what_changed_is_computed_again(model, tmp_path, computed):
    cache = Cache(tmp_path)
    model.hsv(["*.0"], device="cpu", cache=cache)
    assert computed == ["s4_layers.0"]
    model.hsv(device="cpu", cache=cache)
    assert computed == ["s4_layers.0", "s4_layers.1"]
    tensors, config = tiny("s4d", "s4d")
    tensors["s4_layers.1.kernel.C"] *= 2
    other = load(write_folder(tmp_path / "other", tensors, config))
    found = other.hsv(device="cpu", cache=cache)
    assert computed == ["s4_layers.0", "s4_layers.1", "s4_layers.1"]
    assert bits(found) == bits(other.hsv(device="cpu"))


@pytest.mark.parametrize("module", [spectra, content])
def test_another_version_of_the_work_or_of_the_hash_is_computed_again(model, tmp_path, computed, monkeypatch, module):
    cache = Cache(tmp_path)
    model.hsv(device="cpu", cache=cache)
    monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
    model.hsv(device="cpu", cache=cache)
    assert len(computed) == 4


def test_another_device_and_other_sources_are_computed_again(model, monkeypatch):
    keys = {HsvWork("cpu").key("x"), HsvWork("cuda").key("x"), HsvWork("cpu").key("y")}
    monkeypatch.setattr(spectra, "version_of", lambda *packages: "another release")
    assert len(keys | {HsvWork("cpu").key("x")}) == 4


def test_an_entry_that_is_no_result_of_this_layer_is_computed_again(model, tmp_path, computed):
    cache, layer, without = Cache(tmp_path), model.layers[0], bits(model.hsv(device="cpu"))
    key = HsvWork("cpu").key(model.content(layer))
    for wrong in ({}, {"sigma": np.ones(3)}, packed(Spectrum(*[np.ones((1, 2))] * 3))):
        cache.put(key, wrong)
        del computed[:]
        assert bits(model.hsv(device="cpu", cache=cache)) == without
        assert "s4_layers.0" in computed


def test_every_layer_is_kept_as_soon_as_it_is_done(tmp_path, computed):
    """A layer with a NaN ends the run; those before it need not be computed again."""
    tensors, config = tiny("s4d", "s4d")
    tensors["s4_layers.1.kernel.C"][0, 0, 0] = torch.nan
    cache, broken = Cache(tmp_path), load(write_folder(tmp_path / "broken", tensors, config))
    for _ in range(2):
        with pytest.raises(CheckpointError, match="NaN"):
            broken.hsv(device="cpu", cache=cache)
    assert computed == ["s4_layers.0", "s4_layers.1", "s4_layers.1"]


def test_a_file_that_changes_during_the_work_is_an_error_and_not_kept(model, tmp_path, monkeypatch):
    cache, path, compute = Cache(tmp_path), model.checkpoint.path / "model.safetensors", HsvWork.compute
    key = HsvWork("cpu").key(model.content(model.layers[0]))

    def meanwhile(self, model, layer, step):
        found = compute(self, model, layer, step)
        save_file({name: tensor + 1 for name, tensor in load_file(path).items()}, path)
        return found

    monkeypatch.setattr(HsvWork, "compute", meanwhile)
    with pytest.raises(CheckpointError, match="changed while it was in use"):
        model.hsv(device="cpu", cache=cache)
    assert cache.get(key) is None


def test_progress_of_what_is_known_is_complete_at_once(model, tmp_path):
    cache, seen = Cache(tmp_path), []
    model.hsv(device="cpu", cache=cache)
    model.hsv(device="cpu", cache=cache, progress=lambda layer, done, total: seen.append((layer.name, done, total)))
    assert seen == [("s4_layers.0", 4, 4), ("s4_layers.1", 4, 4)]


def test_no_bit_depends_on_the_number_of_threads(tmp_path):
    """Above 256 stored modes one system is one matrix: libraries with more threads add its sums in another order."""
    rng, slots = np.random.default_rng(0), 260
    poles = np.stack([-(10 ** rng.uniform(-3, -1, slots)), rng.uniform(0, 3, slots)], -1)
    tensors = {"l.ssm.lambda_log": poles, "l.ssm.B": rng.standard_normal((slots, 1, 2))}
    tensors |= {"l.ssm.C": rng.standard_normal((1, slots, 2)), "l.ssm.D": np.zeros((1, 1))}
    model = load(write_folder(tmp_path / "m", {name: torch.from_numpy(x) for name, x in tensors.items()}, None))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            found.append(bits(model.hsv(device="cpu")))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]
