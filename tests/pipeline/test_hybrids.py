"""Hybrid models run by transformers: what hooks see is what the project computes, also with fewer states."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from ssmtool.pipeline.model import load
from ssmtool.pipeline.projected import write_projected
from ssmtool.pipeline.runner import open_runner, with_mixers
from ssmtool.pipeline.selective_compress import compress_selective
from ssmtool.pipeline.selective_validate import validate_selective
from ssmtool.pipeline.tokens import TokenSource, read_tokens
from ssmtool.selective.choices import Export
from ssmtool.selective.language import LanguageModel, sum_of
from ssmtool.selective.mixers import to_torch
from tests.pipeline.language_models import hybrid, saved, tokens
from tests.runtime.test_projected import decoded, projectors, states_of

library = pytest.importorskip("transformers", minversion="5.17")
MAMBA2 = ("bamba", "falcon_h1", "granitemoehybrid", "nemotron_h", "zamba2")
close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)  # float32 through a few blocks
TOKENS = tokens(vocabulary=64)


@pytest.fixture(params=(*MAMBA2, "jamba", "zamba"))
def folder(request, tmp_path):
    return saved(hybrid(request.param), tmp_path / "model")


def test_hooks_agree_with_the_own_forward(folder, capfd):
    model = load(folder)
    capfd.readouterr()
    runner = open_runner(model, "cpu")
    assert not isinstance(runner, LanguageModel)
    assert sorted(runner.names) == sorted(layer.name for layer in model.layers)
    assert runner.vocabulary == 64
    mixers = {layer.name: tuple(to_torch(m, torch.float32) for m in model.mixers(layer)) for layer in model.layers}
    with torch.no_grad():
        plain = runner.logits(TOKENS)
        close(with_mixers(runner, mixers).logits(TOKENS), plain)
        seen = []
        runner.logits(TOKENS, lambda name, x, residual: seen.append((name, x.shape, residual.shape)))
        nothing = runner.logits(TOKENS, lambda name, x, _: 0 * sum_of(mixers[name], x))
    assert seen == [(name, (2, 24, 32), (2, 24, 32)) for name in runner.names]
    assert (nothing - plain).abs().max() > 1e-2
    assert capfd.readouterr().err == ""


def test_sampled_tokens(folder):
    model = load(folder)
    drawn, again = (read_tokens(TokenSource(sampled=3, length=8), model, open_runner(model, "cpu")) for _ in range(2))
    assert drawn.array.shape == (3, 8)
    assert (drawn.array[:, 0] == 1).all()
    assert drawn.sha256 == again.sha256


@pytest.mark.parametrize("kind", MAMBA2)
def test_projected_hybrids(kind, tmp_path):
    model = load(saved(hybrid(kind), tmp_path / "model"))
    out = write_projected(model, projectors(model, 3), tmp_path / "projected")
    reduced = load(out)
    assert {layer.slots for layer in reduced.layers} == {3}
    remote = library.AutoModelForCausalLM.from_pretrained(out, trust_remote_code=True).eval()
    stock = library.AutoModelForCausalLM.from_pretrained(out).eval()
    with torch.no_grad():
        ours = open_runner(reduced, "cpu").logits(TOKENS)
        close(remote(TOKENS).logits, ours)
        assert (stock(TOKENS).logits - ours).abs().max() > 1e-3
        rows, cache = decoded(remote, TOKENS)
        close(rows, ours)
    assert np.unique(states_of(cache)).tolist() == [3]
    assert len(states_of(cache)) == len(model.layers)
    assert remote.generate(TOKENS[:1, :4], max_new_tokens=4, min_new_tokens=4, do_sample=False).shape == (1, 8)


def test_compress_and_validate_a_hybrid(tmp_path):
    folder = saved(hybrid("bamba"), tmp_path / "model")
    model = load(folder)
    runner = open_runner(model, "cpu")
    tokens_ = read_tokens(TokenSource(sampled=8, length=24), model, runner)
    done = compress_selective(model, runner, tokens_, tmp_path / "small", rank=4, export=Export.projected)
    assert done.output is not None
    found = validate_selective(model, load(done.output), TokenSource(sampled=4, length=24, seed=1), device="cpu")
    assert found.decoding is None
    assert found.state_bytes[1] < found.state_bytes[0]
    assert 0 < found.language.kl < 0.1
    assert [layer.states for layer in found.layers] == [(8, 4), (8, 4)]
    for layer in found.layers:
        assert layer.scan_error == pytest.approx(layer.predicted, rel=0.5)
