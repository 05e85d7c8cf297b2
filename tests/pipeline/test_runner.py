"""Whole models on tokens: the project's own code, and transformers with hooks."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial

import pytest
import torch

from ssmtool.errors import FamilyError, UsageError
from ssmtool.lti.factors import resolve_device
from ssmtool.pipeline.generate import advance, sample
from ssmtool.pipeline.model import load
from ssmtool.pipeline.runner import open_runner, with_mixers
from ssmtool.selective.language import LanguageModel, sum_of
from ssmtool.selective.mixers import to_torch
from tests.pipeline.language_models import byte_model, tokens

KINDS = ("mamba", "mamba2")
close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)  # float32 through two blocks


@pytest.fixture(params=KINDS)
def model(request, tmp_path):
    return load(byte_model(tmp_path / request.param, request.param))


def own(model, dtype=torch.float32) -> LanguageModel:
    runner = open_runner(model, "cpu", dtype)
    assert isinstance(runner, LanguageModel)
    return runner


def test_the_own_stack_computes_what_the_trained_model_computes(model):
    from safetensors.torch import load_file

    from ssmtool.training.language.model import ByteModel
    from tests.pipeline.language_models import SIZES

    byte = ByteModel(SIZES[model.layers[0].family])
    byte.load_state_dict(load_file(model.checkpoint.path / "model.safetensors"))
    runner = own(model)
    assert runner.names == tuple(layer.name for layer in model.layers)
    assert runner.vocabulary == 256
    with torch.no_grad():
        close(runner.logits(tokens()), byte(tokens()))


def test_decoding_with_a_memory_is_prefill(model):
    runner = own(model, torch.float64)
    whole = runner.logits(tokens())
    memories, rows = None, []
    for t in range(tokens().shape[1]):
        logits, memories = advance(runner, tokens()[:, t : t + 1], memories)
        rows.append(logits)
    torch.testing.assert_close(torch.stack(rows, 1), whole, rtol=1e-9, atol=1e-9)


def test_sampling_is_seeded_and_follows_the_model(model):
    runner = own(model)
    drawn = sample(runner, 3, 12, 5, start=0)
    assert drawn.shape == (3, 12)
    assert (drawn[:, 0] == 0).all()
    assert torch.equal(drawn, sample(runner, 3, 12, 5, start=0))
    assert not torch.equal(drawn, sample(runner, 3, 12, 6, start=0))
    with torch.no_grad():
        chances = runner.logits(drawn).log_softmax(-1)[:, :-1].gather(2, drawn[:, 1:, None])
        uniform = runner.logits(tokens(3, 12)).log_softmax(-1)[:, :-1].gather(2, tokens(3, 12)[:, 1:, None])
    assert chances.mean() > uniform.mean() + 1


def test_other_mixers_in_some_layers(model):
    runner = own(model)
    name = runner.names[1]
    other = replace(runner.mixers[name][0], out=2 * runner.mixers[name][0].out)
    changed = with_mixers(runner, {name: (other,)})
    expected = runner.logits(tokens(), lambda n, x, _: 2 * sum_of(runner.mixers[n], x) if n == name else None)
    torch.testing.assert_close(changed.logits(tokens()), expected)
    seen = []
    changed.logits(tokens(), lambda n, x, residual: seen.append(n))
    assert tuple(seen) == runner.names
    with pytest.raises(UsageError, match="no layer"):
        with_mixers(runner, {"layers.9": (other,)})


def test_hooks_see_and_replace_what_the_own_stack_does(model):
    pytest.importorskip("transformers")
    from ssmtool.pipeline.hooked import HookedModel

    hooked, runner = HookedModel(model, resolve_device("cpu"), torch.float32), own(model)
    assert hooked.names == runner.names
    assert hooked.vocabulary == runner.vocabulary

    def record(into):
        return lambda name, x, residual: into.append((name, x, residual))

    with torch.no_grad():
        theirs, ours = [], []
        close(hooked.logits(tokens(), record(theirs)), runner.logits(tokens(), record(ours)))
        for (name, x, residual), (other, y, stream) in zip(theirs, ours, strict=True):
            assert name == other
            close(x, y)
            close(residual, stream)
        half = lambda name, x, _: 0.5 * sum_of(runner.mixers[name], x) if name == runner.names[0] else None  # noqa: E731
        close(hooked.logits(tokens(), half), runner.logits(tokens(), half))
    assert torch.equal(hooked.sample(2, 5, 3, 0), hooked.sample(2, 5, 3, 0))
    assert hooked.sample(2, 5, 3, None).shape == (2, 5)


def test_a_model_that_computes_something_else_is_refused(model, monkeypatch):
    pytest.importorskip("transformers")
    from ssmtool.pipeline.hooked import HookedModel

    hooked = HookedModel(model, resolve_device("cpu"), torch.float32)
    read = type(model).mixers
    monkeypatch.setattr(
        type(model), "mixers", lambda self, layer: tuple(replace(m, d_skip=m.d_skip + 0.1) for m in read(self, layer))
    )
    with pytest.raises(FamilyError, match="computes something else than its file says"):
        hooked.logits(tokens())


def test_without_transformers_one_line_says_how_to_get_it(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setattr("ssmtool.pipeline.runner.stack_of", lambda model: None)
    with pytest.raises(UsageError, match=r"pip install ssmtool\[hf\]"):
        open_runner(model, "cpu")


def test_a_file_without_layers_that_read_tokens_is_refused(tmp_path):
    from safetensors.numpy import save_file

    from ssmtool import plugins

    arrays, _ = plugins.load("ssmtool.families", "s4d").tiny("s4d", 0)
    save_file(arrays, tmp_path / "s4d.safetensors")
    with pytest.raises(FamilyError, match="input-dependent"):
        open_runner(load(tmp_path / "s4d.safetensors"), "cpu")


def test_mixers_convert_to_the_runner_dtype(model):
    runner = own(model, torch.float64)
    layer = model.layers[0]
    ours = tuple(to_torch(m, torch.float64) for m in model.mixers(layer))
    x = torch.randn(1, 5, 32, dtype=torch.float64)
    torch.testing.assert_close(sum_of(ours, x), sum_of(runner.mixers[layer.name], x))
