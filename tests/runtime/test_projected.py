"""Projected checkpoints: as the project reads them, and as transformers runs them."""

from __future__ import annotations

import copy
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file

from ssmtool import plugins
from ssmtool.errors import UsageError
from ssmtool.pipeline.model import load
from ssmtool.pipeline.projected import write_projected
from ssmtool.pipeline.runner import open_runner
from ssmtool.selective.mixers import ScalarMixer
from tests.pipeline.language_models import byte_model, tokens

R = 5
close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)  # float32 through a few blocks


def projectors(model, rank: int = R):
    """Random projectors for every Mamba-2 layer."""
    rng = np.random.default_rng(0)
    found = {}
    for layer in model.layers:
        shape = (layer.options["groups"], rank, layer.slots)
        found[layer.name] = tuple(rng.standard_normal(shape) / np.sqrt(layer.slots) for _ in range(2))
    return found


@pytest.fixture
def original(tmp_path) -> Path:
    return byte_model(tmp_path / "model", "mamba2")


@pytest.fixture
def projected(original, tmp_path) -> Path:
    model = load(original)
    return write_projected(model, projectors(model), tmp_path / "projected")


def reload(folder: Path):
    library = pytest.importorskip("transformers")
    return library.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()


def states_of(cache) -> list[int]:
    """Last dimension of every recurrent state of a cache."""
    sizes = []
    for layer in cache.layers:
        states = getattr(layer, "recurrent_states", None)
        if isinstance(states, dict):
            states = states.get(0)
        elif isinstance(states, list | tuple):
            states = states[0]
        if states is not None:
            sizes.append(states.shape[-1])
    return sizes


def decoded(model, ids: torch.Tensor):
    """Logits of one token at a time after the first, with a cache, and the cache."""
    name = "cache_params" if model.config.model_type == "mamba2" else "past_key_values"
    out = model(ids[:, :4], use_cache=True)
    rows, cache = [out.logits], getattr(out, name)
    for t in range(4, ids.shape[1]):
        at = torch.full((len(ids), 1), t)  # some hybrids do not count the positions they have cached
        out = model(ids[:, t : t + 1], use_cache=True, position_ids=at, **{name: cache})
        rows.append(out.logits)
        cache = getattr(out, name)
    return torch.cat(rows, 1), cache


def test_the_original_tensors_stay_and_the_layers_have_r_states(original, projected):
    before, after = load_file(original / "model.safetensors"), load_file(projected / "model.safetensors")
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert set(after) - set(before) == {f"backbone.layers.{i}.mixer.project_{x}" for i in range(2) for x in "bc"}
    model = load(projected)
    for layer, (name, (b, c)) in zip(model.layers, projectors(load(original)).items(), strict=True):
        assert (layer.name, layer.slots, layer.options["states"]) == (name, R, 16)
        (mixer,) = model.mixers(layer)
        assert isinstance(mixer, ScalarMixer)
        np.testing.assert_allclose(mixer.project_b, b, rtol=1e-6)
        np.testing.assert_allclose(mixer.project_c, c, rtol=1e-6)
        assert mixer.state_size == mixer.channels * R
    config = json.loads((projected / "config.json").read_text())
    assert config["ssmtool_projected_states"] == {"0.mixer": R, "1.mixer": R}
    assert config["auto_map"] == {"AutoModelForCausalLM": "modeling_projected.ProjectedMamba2ForCausalLM"}


def test_the_projection_of_full_rank_changes_nothing(original, tmp_path):
    model = load(original)
    T = np.random.default_rng(0).standard_normal((1, 16, 16))
    pair = (T, np.linalg.inv(T).transpose(0, 2, 1))
    again = load(write_projected(model, dict.fromkeys((layer.name for layer in model.layers), pair), tmp_path / "full"))
    ours = [open_runner(m, "cpu", torch.float64).logits(tokens()) for m in (model, again)]
    close(*ours)


def test_remote_code_computes_what_the_project_computes(projected):
    model = reload(projected)
    assert type(model).__name__ == "ProjectedMamba2ForCausalLM"
    with torch.no_grad():
        close(model(tokens()).logits, open_runner(load(projected), "cpu").logits(tokens()))


def test_cached_decoding_is_prefill_with_r_states(projected):
    model = reload(projected)
    with torch.no_grad():
        rows, cache = decoded(model, tokens())
        close(rows, model(tokens()).logits)
    assert states_of(cache) == [R, R]


def test_generate(projected):
    model = reload(projected)
    long = model.generate(tokens(1, 6), max_new_tokens=8, min_new_tokens=8, do_sample=False)
    assert long.shape == (1, 14)
    plain = model.generate(tokens(1, 6), max_new_tokens=8, min_new_tokens=8, do_sample=False, use_cache=False)
    assert torch.equal(long, plain)


def test_without_trust_the_directory_is_the_original(original, projected):
    library = pytest.importorskip("transformers")
    stock, before = (library.AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (projected, original))
    with torch.no_grad():
        assert torch.equal(stock(tokens()).logits, before(tokens()).logits)


def test_saved_again_it_is_the_same(projected, tmp_path):
    model = reload(projected)
    model.save_pretrained(tmp_path / "again")
    again = reload(tmp_path / "again")
    with torch.no_grad():
        assert torch.equal(again(tokens()).logits, model(tokens()).logits)


def test_gradients_reach_the_projectors(projected):
    model = reload(projected).train()
    model(tokens(), labels=tokens()).loss.backward()
    assert all(p.grad.abs().max() > 0 for n, p in model.named_parameters() if n.endswith(("project_b", "project_c")))


@pytest.mark.parametrize("give", ["checkpoint", "pairs"])
def test_patching_a_loaded_model(original, projected, give):
    library = pytest.importorskip("transformers")
    from ssmtool.runtime import patch

    plain = library.AutoModelForCausalLM.from_pretrained(original).eval()
    with torch.no_grad():
        stock = plain(tokens()).logits
        patched = patch(copy.deepcopy(plain), projected if give == "checkpoint" else projectors(load(original)))
        close(patched(tokens()).logits, open_runner(load(projected), "cpu").logits(tokens()))
        assert torch.equal(plain(tokens()).logits, stock)


def test_patching_what_does_not_fit(original):
    library = pytest.importorskip("transformers")
    from ssmtool.runtime import patch

    plain = library.AutoModelForCausalLM.from_pretrained(original).eval()
    with pytest.raises(UsageError, match="no such Mamba-2 mixer"):
        patch(plain, {"layers.7.mixer": (np.zeros((1, 2, 16)), np.zeros((1, 2, 16)))})
    with pytest.raises(UsageError, match="do not fit 1 groups of 16 states"):
        patch(plain, {"layers.0.mixer": (np.zeros((1, 2, 8)), np.zeros((1, 2, 8)))})
    with pytest.raises(UsageError, match="holds no projectors"):
        patch(plain, original)


def test_what_cannot_be_projected(original, projected, tmp_path):
    pair = (np.zeros((1, 2, 8)), np.zeros((1, 2, 8)))
    diagonal = load(byte_model(tmp_path / "mamba", "mamba"))
    with pytest.raises(UsageError, match=r"--export stock"):
        write_projected(diagonal, {diagonal.layers[0].name: pair}, tmp_path / "out")
    with pytest.raises(UsageError, match="do not fit 1 groups of 16 states"):
        write_projected(load(original), {load(original).layers[0].name: pair}, tmp_path / "out")
    with pytest.raises(UsageError, match="projected already"):
        write_projected(load(projected), projectors(load(projected)), tmp_path / "out")
    with pytest.raises(UsageError, match="no layer"):
        write_projected(load(original), {"layers.9": pair}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_some_layers_alone(original, tmp_path):
    model = load(original)
    name, pair = next(iter(projectors(model, 3).items()))
    folder = write_projected(model, {name: pair}, tmp_path / "one")
    assert [layer.slots for layer in load(folder).layers] == [3, 16]
    reduced = reload(folder)
    with torch.no_grad():
        rows, cache = decoded(reduced, tokens())
        close(rows, open_runner(load(folder), "cpu").logits(tokens()))
    assert states_of(cache) == [3, 16]


def test_the_layout_of_mamba_ssm_has_no_class_to_name(tmp_path):
    tensors, config = plugins.load("ssmtool.families", "mamba2").tiny("mamba-ssm", 0)
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    model = load(folder)
    again = load(write_projected(model, projectors(model, 2), tmp_path / "projected"))
    assert again.checkpoint.config is not None
    assert "auto_map" not in again.checkpoint.config
    assert {layer.slots for layer in again.layers} == {2}
    assert open_runner(again, "cpu").logits(tokens(vocabulary=16)).shape == (2, 24, 16)
