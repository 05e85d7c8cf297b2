"""Checkpoints with blocks left out: the right ones, readable by unmodified code, and compressible once more."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import ssmtool
from ssmtool import plugins
from ssmtool.errors import FamilyError, OutputError, UsageError
from ssmtool.pipeline.drop_blocks import choose_drops, drop_blocks, mean_loss, without
from ssmtool.pipeline.model import Model
from ssmtool.pipeline.tokens import Tokens
from ssmtool.selective.language import LanguageModel
from tests.pipeline.language_models import byte_model, hybrid, saved

FIXTURES = Path(__file__).parents[2] / "fixtures"


def opened(path: Path) -> tuple[Model, LanguageModel]:
    model = ssmtool.load(path)
    runner = ssmtool.open_runner(model, "cpu")
    assert isinstance(runner, LanguageModel)
    return model, runner


def held_out(rows: int = 4, length: int = 64) -> Tokens:
    array = np.load(FIXTURES / "stdlib-heldout.npy")[:rows, :length].astype(np.int64)
    return Tokens(array, f"{rows} x {length} tokens of stdlib-heldout.npy", "0" * 64)


@pytest.mark.parametrize(
    ("fixture", "name"), [("bytes-mamba2", "Mamba2ForCausalLM"), ("bytes-mamba", "MambaForCausalLM")]
)
def test_the_result_loads_in_transformers_and_predicts_what_the_rest_of_the_blocks_predict(fixture, name, tmp_path):
    transformers = pytest.importorskip("transformers")
    model, runner = opened(FIXTURES / fixture)
    tokens = held_out()
    done = drop_blocks(model, runner, tokens, tmp_path / "out", 2)
    gone = {drop.name for drop in done.drops}
    ours = without(runner, gone).logits(torch.from_numpy(tokens.array))
    stock, report = getattr(transformers, name).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.get(kind) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert stock.config.num_hidden_layers == 2
    with torch.no_grad():
        theirs = stock(torch.from_numpy(tokens.array)).logits
    # two implementations in float32: 1e-6 of logits of 20, over two blocks
    torch.testing.assert_close(theirs, ours, atol=2e-4, rtol=0)


def test_every_choice_is_the_best_of_all_that_are_left():
    _, runner = opened(FIXTURES / "bytes-mamba2")
    tokens = held_out().array
    whole, drops = choose_drops(runner, tokens, 2)
    assert whole == pytest.approx(mean_loss(runner, tokens))
    gone: set[str] = set()
    for drop in drops:
        tried = {n: mean_loss(without(runner, {*gone, n}), tokens) for n in runner.names if n not in gone}
        assert drop.name == min(tried, key=lambda n: tried[n])
        assert drop.loss == pytest.approx(tried[drop.name])
        gone.add(drop.name)


def test_loss_is_the_cross_entropy_of_the_next_token():
    _, runner = opened(FIXTURES / "bytes-mamba2")
    tokens = held_out(2, 32).array
    chances = torch.softmax(runner.logits(torch.from_numpy(tokens)).double(), -1)
    nats = [-chances[i, t, tokens[i, t + 1]].log().item() for i in range(2) for t in range(31)]
    assert mean_loss(runner, tokens) == pytest.approx(np.mean(nats), rel=1e-6)


@pytest.mark.parametrize(
    ("family", "variant"),
    [("mamba", "mamba-ssm"), ("mamba", "mambapy"), ("mamba2", "mamba-ssm")],
)
def test_other_spellings_of_the_configuration(family, variant, tmp_path):
    tensors, config = plugins.load("ssmtool.families", family).tiny(variant, 0)
    folder = tmp_path / "tiny"
    folder.mkdir()
    save_file({n: np.array(x, order="C", copy=True) for n, x in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    model, runner = opened(folder)
    array = np.random.default_rng(0).integers(0, runner.vocabulary, (2, 12))
    done = drop_blocks(model, runner, Tokens(array, "random", "0" * 64), tmp_path / "out", 1)
    _, smaller = opened(tmp_path / "out")
    assert len(smaller.names) == 1
    expected = without(runner, {drop.name for drop in done.drops}).logits(torch.from_numpy(array))
    assert torch.equal(smaller.logits(torch.from_numpy(array)), expected)
    key = "n_layers" if variant == "mambapy" else "n_layer"
    assert json.loads((tmp_path / "out" / "config.json").read_text())[key] == 1


def test_kept_tensors_are_the_same_numbers_under_new_names(tmp_path):
    model, runner = opened(FIXTURES / "bytes-mamba2")
    done = drop_blocks(model, runner, held_out(2, 32), tmp_path / "out", 2)
    smaller = ssmtool.load(tmp_path / "out")
    for i, name in enumerate(done.kept):
        for role, tensor in next(layer for layer in model.layers if layer.name == name).tensors.items():
            new = smaller.layers[i].tensors[role]
            assert new.startswith(f"backbone.layers.{i}.")
            assert np.array_equal(smaller.checkpoint.read(new), model.checkpoint.read(tensor))
            assert smaller.checkpoint.tensors[new] == model.checkpoint.tensors[tensor]
    assert smaller.checkpoint.data_bytes == done.bytes_after


def test_the_record_says_what_was_dropped_and_outlives_a_second_compression(tmp_path):
    model, runner = opened(FIXTURES / "bytes-mamba2")
    tokens = held_out(16, 128)
    done = drop_blocks(model, runner, tokens, tmp_path / "out", 1)
    once = ssmtool.load(tmp_path / "out")
    record = json.loads(once.checkpoint.metadata["ssmtool"])
    assert record["source_sha256"] == model.checkpoint.sha256()
    assert [row["name"] for row in record["dropped"]] == [drop.name for drop in done.drops]
    again = ssmtool.open_runner(once, "cpu")
    ssmtool.compress_selective(once, again, tokens, tmp_path / "both", rank=8, export="projected")
    both = ssmtool.load(tmp_path / "both")
    assert json.loads(both.checkpoint.metadata["ssmtool_blocks"]) == record
    assert json.loads(both.checkpoint.metadata["ssmtool"])["target"] == "rank 8"
    assert {layer.slots for layer in both.layers} == {8}


def test_a_projected_export_keeps_its_ranks_where_the_blocks_go(tmp_path):
    model, runner = opened(byte_model(tmp_path / "model", "mamba2"))
    tokens = Tokens(np.random.default_rng(0).integers(0, 256, (8, 24)), "random", "0" * 64)
    ssmtool.compress_selective(model, runner, tokens, tmp_path / "projected", rank=4, export="projected")
    projected, running = opened(tmp_path / "projected")
    done = drop_blocks(projected, running, tokens, tmp_path / "out", 1)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["ssmtool_projected_states"] == {"0.mixer": 4}
    _, smaller = opened(tmp_path / "out")
    read = torch.from_numpy(tokens.array)
    assert torch.equal(smaller.logits(read), without(running, {d.name for d in done.drops}).logits(read))


@pytest.mark.parametrize("count", [0, 2, 3])
def test_how_many_blocks_can_go(count, tmp_path):
    model, runner = opened(byte_model(tmp_path / "model", "mamba"))
    with pytest.raises(UsageError, match=r"2 blocks: give 1 to 1"):
        drop_blocks(model, runner, held_out(), tmp_path / "out", count)
    assert not (tmp_path / "out").exists()


def test_hybrids_are_refused(tmp_path):
    pytest.importorskip("transformers")
    model = ssmtool.load(saved(hybrid("bamba"), tmp_path / "bamba"))
    _, runner = opened(byte_model(tmp_path / "model", "mamba2"))
    with pytest.raises(FamilyError, match="other than mixers"):
        drop_blocks(model, runner, held_out(), tmp_path / "out", 1)


def test_linear_models_are_refused(tmp_path):
    _, runner = opened(byte_model(tmp_path / "model", "mamba2"))
    with pytest.raises(FamilyError, match="input-dependent"):
        drop_blocks(ssmtool.load(FIXTURES / "digits-s4d.safetensors"), runner, held_out(), tmp_path / "out", 1)


def test_a_destination_that_exists_stays_as_it_is(tmp_path):
    model, runner = opened(byte_model(tmp_path / "model", "mamba2"))
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError):
        drop_blocks(model, runner, held_out(), tmp_path / "out", 1)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_dry_run_writes_nothing(tmp_path):
    model, runner = opened(byte_model(tmp_path / "model", "mamba2"))
    done = drop_blocks(model, runner, held_out(), tmp_path / "out", 1, dry_run=True)
    assert done.output is None
    assert len(done.kept) == 1
    assert not (tmp_path / "out").exists()
