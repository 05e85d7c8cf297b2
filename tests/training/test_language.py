"""The recipe of the byte-level language models, on a corpus and sizes that take a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ssmtool.training.language.corpus import Corpus, spread, standard_library
from ssmtool.training.language.model import ByteModel, Sizes
from ssmtool.training.language.recipe import LanguageRecipe, perplexity, train_language

KINDS = pytest.mark.parametrize("kind", ["mamba", "mamba2"])
TEXT = np.frombuffer(b"abcabd" * 400, dtype=np.uint8)
CORPUS = Corpus(TEXT, TEXT, "", (1, 1))


def recipe(kind: str) -> LanguageRecipe:
    sizes = Sizes(kind, width=16, depth=1, states=4, head=8)
    return LanguageRecipe(sizes, steps=60, batch=4, length=24, rate=2e-2, averaging=0.8)


@KINDS
def test_training_learns_and_is_reproducible(kind: str) -> None:
    models = [train_language(recipe(kind), CORPUS, seed, lambda step, loss: None) for seed in (0, 0)]
    for a, b in zip(*(model.state_dict().values() for model in models), strict=True):
        assert torch.equal(a, b)
    assert perplexity(models[0], CORPUS, sequences=4, length=48) < 8  # 256 for an untrained model


@KINDS
def test_the_state_dict_is_what_the_family_reads(kind: str) -> None:
    from ssmtool.checkpoint import TensorInfo
    from ssmtool.pipeline.model import find_layers

    model = ByteModel(Sizes(kind, width=16, depth=2, states=4, head=8))
    infos = {name: TensorInfo(tuple(t.shape), "F32") for name, t in model.state_dict().items()}
    layers = find_layers(infos, model.config(), (kind,))
    assert [layer.name for layer in layers] == ["backbone.layers.0.mixer", "backbone.layers.1.mixer"]
    assert {layer.slots for layer in layers} == {4}


def test_the_corpus_is_split_by_file(tmp_path: Path) -> None:
    for k in range(40):
        (tmp_path / f"module{k}.py").write_text(f"x = {k}\n")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "module.py").write_text("left out\n")
    corpus = standard_library(tmp_path)
    assert sum(corpus.files) == 40
    assert 0 < corpus.files[1] < 15
    assert b"left out" not in corpus.train.tobytes() + corpus.held_out.tobytes()
    assert standard_library(tmp_path).sha256 == corpus.sha256
    lines = set(corpus.train.tobytes().split(b"\n"))
    assert not lines & (set(corpus.held_out.tobytes().split(b"\n")) - {b""})


def test_spread_takes_both_ends() -> None:
    windows = spread(np.arange(100), 4, 10)
    assert windows.shape == (4, 10)
    assert windows[0, 0] == 0
    assert windows[-1, -1] == 99
