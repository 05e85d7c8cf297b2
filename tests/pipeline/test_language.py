"""Comparison of two language models, against the textbook formulas on all logits at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ssmtool.errors import MismatchError, UsageError
from ssmtool.pipeline import language
from ssmtool.pipeline.language import compare, decoding_speeds
from ssmtool.pipeline.model import load
from ssmtool.pipeline.runner import open_runner
from ssmtool.selective.language import LanguageModel
from tests.pipeline.language_models import byte_model, tokens


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return tuple(open_runner(load(byte_model(folder / str(seed), "mamba2", seed)), "cpu") for seed in (0, 1))


@pytest.mark.parametrize("batch", [None, 1, 2])
def test_against_the_formulas(pair, batch, monkeypatch):
    monkeypatch.setattr(language, "POSITIONS", 256 * 5)
    ids = tokens(3, 20)
    seen = []
    found = compare(pair[0], pair[1], ids.numpy(), batch=batch, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (3, 3)
    p, q = (F.log_softmax(runner.logits(ids)[:, :-1].double(), -1) for runner in pair)
    assert found.predictions == 57
    for log, loss, perplexity, bits in (
        (p, found.loss_original, found.perplexity_original, found.bits_original),
        (q, found.loss_reduced, found.perplexity_reduced, found.bits_reduced),
    ):
        expected = F.nll_loss(log.flatten(0, 1), ids[:, 1:].flatten()).item()
        assert loss == pytest.approx(expected, rel=1e-6)
        assert perplexity == pytest.approx(np.exp(expected), rel=1e-6)
        assert bits == pytest.approx(expected / np.log(2), rel=1e-6)
    assert found.increase == pytest.approx(100 * (found.perplexity_reduced / found.perplexity_original - 1))
    assert found.kl == pytest.approx(F.kl_div(q, p, log_target=True, reduction="sum").item() / 57, rel=1e-6)
    assert found.agreement == pytest.approx((p.argmax(-1) == q.argmax(-1)).double().mean().item())


def test_a_model_against_itself(pair):
    found = compare(pair[0], pair[0], tokens().numpy())
    assert (found.kl, found.increase, found.agreement) == (0, 0, 1)


def test_what_cannot_be_compared(pair):
    class Other:
        names, vocabulary = (), 7

        def logits(self, tokens, visit=None):
            raise NotImplementedError

    with pytest.raises(MismatchError, match="256 tokens and 7"):
        compare(pair[0], Other(), tokens().numpy())
    with pytest.raises(UsageError, match="no next token"):
        compare(pair[0], pair[1], tokens(3, 1).numpy())


def test_speed_of_decoding(pair, monkeypatch):
    monkeypatch.setattr(language, "DECODED", 5)
    models = [model for model in pair if isinstance(model, LanguageModel)]
    found = decoding_speeds(models, torch.zeros(1, 4, dtype=torch.int64))
    assert [speed.tokens for speed in found] == [5, 5]
    assert all(speed.tokens_per_second > 0 for speed in found)
