"""A stock export is an ordinary checkpoint: transformers' own classes compute what the project predicts of it."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
import torch

from ssmtool.__main__ import main
from ssmtool.pipeline.model import load
from ssmtool.pipeline.runner import open_runner
from tests.pipeline.language_models import byte_model, hybrid, saved, tokens

library = pytest.importorskip("transformers")
close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)  # float32 through a few blocks
R = 3


@pytest.mark.parametrize("kind", ["mamba", "mamba2", "bamba", "jamba"])
def test_reloaded_it_computes_what_is_predicted(kind, tmp_path, capsys):
    pure = kind.startswith("mamba")
    folder = byte_model(tmp_path / "model", kind) if pure else saved(hybrid(kind), tmp_path / "model")
    ids = tokens(8, 24, vocabulary=256 if pure else 64)
    np.save(tmp_path / "tokens.npy", ids.numpy())
    options = ["--rank", R, "--tokens", tmp_path / "tokens.npy", "--refit", 0, "-o", tmp_path / "small"]
    assert main([str(x) for x in ("compress", folder, *options)]) == 0, capsys.readouterr().err
    reduced = load(tmp_path / "small")
    assert {layer.slots for layer in reduced.layers} == {R}
    assert "auto_map" not in json.loads((tmp_path / "small" / "config.json").read_text())
    model, told = library.AutoModelForCausalLM.from_pretrained(tmp_path / "small", output_loading_info=True)
    assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        ours = open_runner(reduced, "cpu").logits(ids[:2])
        close(model.eval()(ids[:2]).logits, ours)
        original = open_runner(load(folder), "cpu").logits(ids[:2])
    assert (ours - original).abs().max() > 1e-3
